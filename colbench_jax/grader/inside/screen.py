"""What an answer may contain: a list of what is allowed, read off the syntax tree before anything runs.

It is the first fence, not the last one: what an answer imports are copies of public names (zygote.py), and the process
around it has no files, no network and no rights. This file is loaded inside the jail, so it imports the standard
library alone.
"""

from __future__ import annotations

import ast
import importlib
import types
from collections.abc import Iterator

MODULES = frozenset(
    'math re collections itertools functools datetime statistics string json heapq bisect decimal fractions '
    'typing __future__'.split()
)
_IMPORTED = MODULES | {'collections.abc'}
LONGEST = 50_000  # characters of an answer

_NAMES = frozenset(
    'exec eval open compile globals locals vars setattr delattr input breakpoint help exit quit memoryview'.split()
)
# The way from a value to its frame.
_ATTRIBUTES = frozenset(
    'gi_frame gi_code cr_frame cr_code ag_frame ag_code f_back f_locals f_globals f_builtins f_code tb_frame tb_next '
    'func_globals mro bltns'.split()
)
# Modules that the allowed ones hold, and what these call them: no attribute of theirs.
_HELD = frozenset(
    'sys os io codecs builtins importlib subprocess socket signal gc inspect ctypes types operator threading '
    'contextvars numbers warnings enum copyreg contextlib random weakref'.split()
) | {
    name
    for module in MODULES
    for name, value in vars(importlib.import_module(module)).items()
    if name.startswith('_') and isinstance(value, types.ModuleType)
}
_SPECIAL = frozenset(('_asdict', '_replace', '_fields', '_make'))
_OPERATORS = (
    'init new name qualname doc repr str bytes format len length_hint iter next reversed getitem setitem delitem '
    'missing contains eq ne lt le gt ge hash bool call neg pos abs invert complex int float index round trunc floor '
    'ceil enter exit add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor'
).split()
_BOTH_SIDES = 'add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor'.split()
_MODEL = frozenset(
    f'__{name}__' for name in (*_OPERATORS, *(side + name for name in _BOTH_SIDES for side in 'ri'))
)  # of the data model, what leads nowhere
_DEFINED = _MODEL | {'__getattr__', '__post_init__', '__init_subclass__', '__class_getitem__', '__set_name__'}
_ASSIGNED = _DEFINED | {'__slots__', '__all__', '__version__', '__author__'}
_MATCHED = frozenset('bool bytearray bytes dict float frozenset int list set str tuple'.split())


def refusal(source: str) -> str | None:
    """Why `source` may not run, in a few words; None where it may."""
    if len(source) > LONGEST:
        return f'longer than {LONGEST} characters'
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return f'syntax error: {error.msg} (line {error.lineno})'
    except (ValueError, RecursionError, MemoryError) as error:
        return f'cannot be parsed: {type(error).__name__}'
    nodes = list(ast.walk(tree))
    own = _Own(nodes)
    for node in reversed(nodes):  # what is innermost is the reason
        reason = own.refusal(node)
        if reason:
            return f'{reason} (line {getattr(node, "lineno", 0)})'
    return None


class _Own:
    """What a source calls its own, and by that what it may not contain."""

    def __init__(self, nodes: list[ast.AST]):
        self.modules: set[str] = set()  # names of what it imports
        self.names: set[str] = set()  # that it binds; a built-in of that name is none of its
        self.attributes: set[str] = set()  # that it stores, or defines in a class
        self.asked: set[ast.AST] = set()  # getattr where it is called with a name that can be read
        for node in nodes:
            self.names |= set(_bound(node))
            if isinstance(node, ast.Import):
                self.modules |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                self.attributes.add(node.attr)
            elif isinstance(node, ast.ClassDef):
                self.attributes |= {name for line in node.body for part in _shallow(line) for name in _bound(part)}
            elif isinstance(node, ast.Call) and _called(node) == 'namedtuple':
                texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                self.attributes |= {
                    word for text in texts if isinstance(text, str) for word in text.replace(',', ' ').split()
                }
            elif isinstance(node, ast.Call) and _called(node) in ('getattr', 'hasattr'):
                self.asked.add(node.func)

    def refusal(self, node: ast.AST) -> str | None:
        if isinstance(node, ast.Import):
            return next((f'import of {a.name}' for a in node.names if a.name not in _IMPORTED), self._bindings(node))
        if isinstance(node, ast.ImportFrom):
            if node.level or node.module not in _IMPORTED:
                return f'import of {node.module or "a relative name"}'
            names = [alias.name for alias in node.names if alias.name.startswith('_') or _leads(alias.name)]
            return f'import of {names[0]}' if names else self._bindings(node)
        if isinstance(node, ast.Attribute):
            module = isinstance(node.value, ast.Name) and node.value.id in self.modules
            if module and (node.attr.startswith('_') or (_leads(node.attr) and node.attr != 'compile')):
                return f'attribute {node.attr}'
            return self._attribute(node.attr)
        if isinstance(node, ast.MatchClass):
            if node.patterns and not (isinstance(node.cls, ast.Name) and node.cls.id in _MATCHED - self.names):
                return 'a class pattern with places'  # whose names the class may compute
            return next(filter(None, map(self._attribute, node.kwd_attrs)), None)
        if isinstance(node, ast.Name):
            if node.id in ('getattr', 'hasattr') and node not in self.asked:
                return f'name {node.id} without a call'
            if node.id in _NAMES and node.id not in self.names:
                return f'name {node.id}'
            stored = isinstance(node.ctx, ast.Store) and node.id in _ASSIGNED
            return f'name {node.id}' if _dunder(node.id) and node.id != '__name__' and not stored else None
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            return f'definition of {node.name}' if _dunder(node.name) and node.name not in _DEFINED else None
        if isinstance(node, ast.Call) and node.func in self.asked:
            name = node.args[1] if len(node.args) > 1 else None
            if isinstance(node.args[0] if node.args else None, ast.Starred) or not (
                isinstance(name, ast.Constant) and isinstance(name.value, str)
            ):
                return 'getattr of a computed name'
            return f'attribute {name.value}' if name.value.startswith('_') else self._attribute(name.value)
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await)):
            return 'async code'
        return self._bindings(node)

    def _attribute(self, name: str) -> str | None:
        """Why an attribute of that name may not be read, of whatever value."""
        private = name.startswith('_') and name not in _SPECIAL
        if _dunder(name):
            refused = name not in _MODEL
        elif private:
            refused = name not in self.attributes or name in _HELD  # one of its own, and of no module
        else:
            refused = name in _ATTRIBUTES or (name in _NAMES - {'compile'} and name not in self.attributes)
        return f'attribute {name}' if refused else None

    def _bindings(self, node: ast.AST) -> str | None:
        """Names that are bound by other means than an assignment."""
        return next((f'name {name}' for name in _bound(node) if _dunder(name)), None)


def _leads(name: str) -> bool:
    """Whether a public name of an allowed module leads out of it."""
    return name in _HELD or name in _ATTRIBUTES or name in _NAMES


def _dunder(name: str) -> bool:
    return name.startswith('__') and name.endswith('__')


def _called(node: ast.Call) -> str:
    """The last part of the name of what is called."""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, 'attr', '')


def _shallow(line: ast.stmt) -> Iterator[ast.AST]:
    """A statement of a class body, without the bodies of its functions."""
    yield line
    if not isinstance(line, (ast.FunctionDef, ast.ClassDef)):
        yield from ast.walk(line)


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that a node binds."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name).split('.')[0] for alias in node.names if alias.name != '__future__')
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    elif isinstance(node, (ast.Global, ast.Nonlocal)):
        yield from node.names
