"""What an answer may contain: a list of what is allowed, read off the syntax tree before anything runs.

It is the first fence, not the last one: the process around it has no files, no network and no rights. This file is
loaded inside the jail, so it imports the standard library alone.
"""

from __future__ import annotations

import ast

MODULES = frozenset(
    'math re collections itertools functools datetime statistics string json heapq bisect decimal fractions '
    'typing'.split()
)
_IMPORTED = MODULES | {'collections.abc'}
LONGEST = 50_000  # characters of an answer

_NAMES = frozenset(
    'exec eval open compile globals locals vars setattr delattr input breakpoint help exit quit memoryview'.split()
)
# The way from a value to its frame, and the modules that the allowed ones hold.
_ATTRIBUTES = frozenset(
    'gi_frame gi_code cr_frame cr_code ag_frame ag_code f_back f_locals f_globals f_builtins f_code tb_frame tb_next '
    'func_globals mro sys os io abc codecs builtins importlib subprocess socket signal gc inspect ctypes types '
    'operator threading contextvars numbers warnings'.split()
)
_SPECIAL = frozenset(('__init__', '__name__', '_asdict', '_replace', '_fields', '_make'))
_DEFINED = frozenset(
    f'__{name}__'
    for name in 'init name repr str len iter next getitem contains eq hash lt le gt ge bool add sub mul call'.split()
)


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
    for node in ast.walk(tree):
        reason = _of_node(node)
        if reason:
            return f'{reason} (line {getattr(node, "lineno", 0)})'
    return None


def _of_node(node: ast.AST) -> str | None:
    if isinstance(node, ast.Import):
        return next((f'import of {a.name}' for a in node.names if a.name not in _IMPORTED), None)
    if isinstance(node, ast.ImportFrom):
        if node.level or node.module not in _IMPORTED:
            return f'import of {node.module or "a relative name"}'
        names = [alias.name for alias in node.names]
        return next((f'import of {name}' for name in names if name.startswith('_') or name in _ATTRIBUTES), None)
    if isinstance(node, ast.Attribute):
        name = node.attr
        if name in _ATTRIBUTES or (name.startswith('__') and name not in _SPECIAL):
            return f'attribute {name}'
        # A private name of self is common; a private name of a module or of a value leads to the interpreter.
        if name.startswith('_') and not (
            isinstance(node.value, ast.Name) and node.value.id in ('self', 'cls', 'other')
        ):
            return None if name in _SPECIAL else f'attribute {name}'
    if isinstance(node, ast.Name) and (node.id in _NAMES or (node.id.startswith('__') and node.id != '__name__')):
        return f'name {node.id}'
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name.startswith('__') and node.name not in _DEFINED:
        return f'definition of {node.name}'
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ('getattr', 'hasattr'):
        name = node.args[1] if len(node.args) > 1 else None
        if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
            return 'getattr of a computed name'
        if name.value.startswith('_') or name.value in _ATTRIBUTES:
            return f'attribute {name.value}'
    elif isinstance(node, ast.Name) and node.id in ('getattr', 'hasattr') and not isinstance(node.ctx, ast.Load):
        return f'name {node.id}'
    if isinstance(node, (ast.AsyncFunctionDef, ast.Await)):
        return 'async code'
    return None
