"""Programs with holes, and the printer that fills them.

A family's program is one Python function over its slots. The names `S_<slot>` are the holes and `N_<noun>` are words of
the domain (in names and in texts). `specialise` puts values into the holes, decides every condition that they decide,
drops what is never reached and prints what is left, which is the reference: an ordinary function that shows no trace of
the choices that were not taken.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any


def specialise(source: str, slots: Mapping[str, Any], nouns: Mapping[str, str]) -> str:
    """The text of `source` with its holes filled. Raises KeyError for a slot or noun that has no value."""
    tree = _Filler(slots, nouns).visit(ast.parse(source))
    return ast.unparse(ast.fix_missing_locations(tree))


def bundle(source: str, variants: Sequence[Mapping[str, Any]], nouns: Mapping[str, str]) -> str:
    """A program whose `every(...)` gives the list of what `source` gives under each of `variants`, None for an error.

    The holes stay holes, filled by globals: many variants cost one compilation. It is for our own programs alone.
    """
    body = re.sub(r'\bN_(\w+)', lambda match: nouns[match.group(1)], source)
    filled = [{f'S_{name}': value for name, value in values.items()} for values in variants]
    return f"""{body}

def every(*arguments):
    found = []
    for values in {filled!r}:
        globals().update(values)
        try:
            found.append({nouns['fn']}(*arguments))
        except Exception:
            found.append(None)
    return found
"""


def _literal(value: Any) -> ast.expr:
    return ast.parse(repr(value), mode='eval').body


class _Filler(ast.NodeTransformer):
    def __init__(self, slots: Mapping[str, Any], nouns: Mapping[str, str]):
        self.slots, self.nouns = slots, nouns

    def _word(self, text: str) -> str:
        """`text`, or the noun that it stands for."""
        return self.nouns[text[2:]] if text.startswith('N_') else text

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id.startswith('S_'):
            return _literal(self.slots[node.id[2:]])
        node.id = self._word(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = self._word(node.arg)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str):
            node.value = self._word(node.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.name = self._word(node.name)
        self.generic_visit(node)
        node.body = _reached(node.body) or [ast.Pass()]
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        sides = [_value(node.left), _value(node.comparators[0])]
        if len(node.ops) == 1 and all(side is not _OPEN for side in sides):
            for kind, decide in _DECIDED:
                if isinstance(node.ops[0], kind):
                    return _literal(decide(*sides))
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        decisive = isinstance(node.op, ast.Or)  # True decides an `or`, False an `and`
        kept: list[ast.expr] = []
        for item in node.values:
            value = _value(item)
            if value is not _OPEN and bool(value) is decisive:
                return _literal(decisive)
            if value is _OPEN:
                kept.append(item)
        if len(kept) < 2:
            return kept[0] if kept else _literal(not decisive)
        node.values = kept
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        decided = _value(node.test)
        return node if decided is _OPEN else node.body if decided else node.orelse

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        self.generic_visit(node)
        node.body, node.orelse = _reached(node.body) or [ast.Pass()], _reached(node.orelse)
        decided = _value(node.test)
        return node if decided is _OPEN else node.body if decided else node.orelse

    def visit_For(self, node: ast.For) -> ast.For:
        self.generic_visit(node)
        node.body = _reached(node.body) or [ast.Pass()]
        return node

    visit_While = visit_For

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        self.generic_visit(node)
        node.ifs = [test for test in node.ifs if _value(test) is not True]
        return node


_OPEN = object()
_DECIDED = (
    (ast.Eq, lambda a, b: a == b),
    (ast.NotEq, lambda a, b: a != b),
    (ast.Is, lambda a, b: a is b),
    (ast.IsNot, lambda a, b: a is not b),
    (ast.In, lambda a, b: a in b),
)


def _value(node: ast.expr) -> Any:
    """The value of a literal, else _OPEN."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _OPEN


def _reached(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements up to the first that leaves the block."""
    for place, statement in enumerate(body):
        if isinstance(statement, (ast.Return, ast.Continue, ast.Break, ast.Raise)):
            return body[: place + 1]
    return body
