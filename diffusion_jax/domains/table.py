"""Designs as a table for people: a CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence


def designs_csv(texts: Sequence[str], columns: Mapping[str, Sequence[float]]) -> bytes:
    """A row for each design, with `columns` [N] each."""
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator='\n')
    table.writerow(['design', *columns])
    table.writerows(zip(texts, *columns.values(), strict=True))
    return rows.getvalue().encode()
