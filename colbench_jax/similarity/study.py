"""How much each way of comparing pages minds a change: python -m colbench_jax.similarity.study

Pages of generated tasks against variants of themselves, and against answers of the scripted agents; the cosines of
imgsim, of bare pixels (64 x 64) and of the fallback. Needs a browser and the weights (python -m colbench_jax.fetch).
"""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from colbench_jax import builders
from colbench_jax.episode import play
from colbench_jax.report import within
from colbench_jax.similarity import Fallback, Judge, Pictures, make
from colbench_jax.tasks.frontend import page
from colbench_jax.tasks.frontend.generate import generate, page_of
from colbench_jax.tasks.frontend.page import Page, Part
from colbench_jax.viewers import ScriptedViewer
from core_jax import provenance
from core_jax.cli import Parser
from core_jax.errors import UserError, exit_on_user_error
from core_jax.files import make_directory, write_json_atomic
from core_jax.stats import mean_interval

OUT = 'runs/colbench/colbench_frontend.json'
BLANK = '<html>\n<body>\n</body>\n</html>'


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog='python -m colbench_jax.similarity.study', description=__doc__)
    parser.add_argument('--count', type=int, default=24, help='pages (default 24)')
    parser.add_argument('--out', default=OUT, help=f'the file (default: {OUT})')
    flags = parser.parse(arguments)[0]
    if flags.count < 2:
        raise UserError(f'--count must be at least 2, got {flags.count}')
    imgsim = make('imgsim')
    browser = imgsim.browser
    judges = {'imgsim': imgsim, 'pixels': Pictures('pixels', pixels, browser), 'fallback': Fallback('no pictures')}
    try:
        found = measured(judges, flags.count)
        versions = provenance.versions() | {'browser': browser.version()}
    finally:
        browser.close()
    for name, metric in found.items():
        print(f'{name:40} {metric["value"]:.4f} ({metric["low"]:.4f} to {metric["high"]:.4f})')
    document = {
        'paper': 'sweet_rl',
        'title': 'similarity of pages',
        'command': f'{parser.prog} --count={flags.count}',
        'device': 'CPU',
        'scale': f'{flags.count} generated pages of the test split, rendered here',
        'seeds': [0],
        'date': datetime.date.today().isoformat(),
        'versions': versions,
        'commit': provenance.git_commit(),
        'metrics': found,
    }
    out = pathlib.Path(flags.out)
    make_directory(out.parent)
    write_json_atomic(out, document)
    print(f'measured values in {out}')
    return 0


def pixels(image: Any) -> np.ndarray:
    """What no network has seen: 64 x 64 pixels in a row."""
    return np.asarray(image.resize((64, 64)), np.float64).ravel()


def measured(judges: dict[str, Judge], count: int) -> dict[str, dict[str, Any]]:
    """{'JUDGE/VARIANT': the mean cosine to the page that is meant, with Student's interval}"""
    tasks = list(generate(count, split='test'))
    answers: dict[str, list[str]] = {}
    for name, change in VARIANTS.items():
        answers[name] = [page.html_of(change(page_of(task['spec']['page']))) for task in tasks]
    following = [*tasks[1:], tasks[0]]
    answers['different page'] = [task['ground_truth'] for task in following]
    answers['blank page'] = [BLANK] * count
    for name in builders.AGENTS:
        played = [play(task, builders.make(name), ScriptedViewer()) for task in tasks]
        answers[f'{name} agent'] = [row['answer'] for row in played]
    found = {}
    for key, judge in judges.items():
        for name, pages in answers.items():
            cosines = [
                judge.score(answer, task['ground_truth']).reward for answer, task in zip(pages, tasks, strict=True)
            ]
            found[f'{key}/{name}'] = within(mean_interval(cosines)) | {'interval': '95 % Student, of the mean'}
    return found


# Variants of a page


def _each(change: Callable[[Part], dict[str, Any]]) -> Callable[[Page], Page]:
    return lambda meant: meant._replace(parts=tuple(part._replace(**change(part)) for part in meant.parts))


def _next(meant: Page, kind: str, field: str) -> Any:
    """Another value of a field: the one after its own."""
    values = page.values_of(kind, meant.topic)[field]
    own = next(getattr(part, field) for part in meant.parts if part.kind == kind)
    return values[(values.index(own) + 1) % len(values)]


def _headline(meant: Page) -> Page:
    title = _next(meant, 'hero', 'title')
    return _each(lambda part: {'title': title} if part.kind == 'hero' else {})(meant)


def _turned(part: Part) -> dict[str, Any]:
    """Alignment and size of the headings: of the other side, and larger or smaller."""
    fields = page.KINDS[part.kind]
    changed = {'align': 'left' if part.align == 'right' else 'right'} if 'align' in fields else {}
    return changed | ({'size': 'text-3xl' if part.size != 'text-3xl' else 'text-5xl'} if 'size' in fields else {})


def _narrowed(part: Part) -> dict[str, Any]:
    return {'columns': 2 if part.columns != 2 else 3} if 'columns' in page.KINDS[part.kind] else {}


def _painted(meant: Page) -> Page:
    """Every background and every button in the next of its colours."""

    def colours(part: Part) -> dict[str, Any]:
        fields = [field for field in ('background', 'colour') if field in page.KINDS[part.kind]]
        return {field: _next(meant, part.kind, field) for field in fields}

    return _each(colours)(meant)


VARIANTS: dict[str, Callable[[Page], Page]] = {
    'same page': lambda meant: meant,
    'headline changed': _headline,
    'alignment and font size': _each(_turned),
    'columns': _each(_narrowed),
    'other colours': _painted,
}


if __name__ == '__main__':
    exit_on_user_error(main)
