"""What an update costs, counted by hand: its matrix products, and their floating-point operations.

A layer [B, k] @ [k, n] appears once forward, once for the gradient of its kernel, [k, B] @ [B, n], and once for that of
its input, [B, n] @ [n, k]. The input of a network is data, so its first layer lacks the last, except where Q is
followed back to the action.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence


class Products:
    """Counts products [m, k] @ [k, n] of networks that look at batches of `rows`."""

    def __init__(self, rows: int):
        self.rows, self._counted = rows, collections.Counter()

    def network(self, sizes: Sequence[int], *, forward: int, kernels: int = 0, inner: int = 0, first: int = 0) -> None:
        """Adds a network of Dense layers with these widths. The numbers say how often each kind of product is made:
        forward; for kernels; for the inputs of its inner layers; for that of the first layer.
        """
        for layer, (k, n) in enumerate(itertools.pairwise(sizes)):
            self._counted[self.rows, k, n] += forward
            self._counted[k, self.rows, n] += kernels
            self._counted[self.rows, n, k] += inner if layer else first

    def all(self) -> list[tuple[int, int, int, int]]:
        """(how often, m, k, n) of each product."""
        return [(times, *shape) for shape, times in self._counted.items() if times]


def flops(products: Sequence[tuple[int, int, int, int]]) -> float:
    """FLOPs of these products, two a multiply-add."""
    return float(sum(2 * times * m * k * n for times, m, k, n in products))
