"""SVDD (arXiv 2408.08252): M children a step, of which one is drawn by exp(value / alpha); at alpha = 0 the best one.

`blocks` draws the children that compete at the end of a block of steps, not after each: CoDe (best of N every B steps).
With one block of all steps that is best-of-N.
"""

from __future__ import annotations

from core_jax.errors import UserError
from diffusion_jax.process import Process
from diffusion_jax.search import tree
from diffusion_jax.value import Value


def plan(process: Process, value: Value, *, children: int, designs: int = 1, alpha: float = 0.0, block: int = 1):
    """A plan of groups of `designs` beams, which know nothing of each other.

    block: steps between two choices (the first block takes what does not divide).

    Raises UserError for no children or no block.
    """
    if children < 1 or block < 1:
        raise UserError('children and block must be at least 1')
    rows = block_rows(process.steps, children, designs, min(block, process.steps))
    return tree.make_plan(rows, process, value, beams=designs, alpha=alpha)


def block_rows(steps: int, children: int, beams: int, block: int) -> list[tree.Row]:
    """Rows in which `beams` beams branch at the beginning of each block and are chosen from at its end.

    An only child has no rival: whatever the block, nothing is scored before the last step.
    """
    if children == 1:
        block = steps
    rows: list[tree.Row] = []
    first = steps % block or block
    for length in [first] + [block] * ((steps - first) // block):
        if length == 1:
            rows.append(tree.Row([children] * beams, search=True))
            continue
        branches = children * beams
        rows.append(tree.Row([children] * beams, search=False))
        rows += [tree.Row([1] * branches, search=False)] * (length - 2)
        home = [b for b in range(beams) for _ in range(children)]
        rows.append(tree.Row([1] * branches, search=True, compete=home))
    return rows


def best_of_n(process: Process, value: Value, *, n: int, designs: int = 1):
    """A plan that returns the best of `n` unguided designs for each of `designs`."""
    return plan(process, value, children=n, designs=designs, block=process.steps)
