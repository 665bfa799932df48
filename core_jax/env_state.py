"""The whole state of a gymnasium environment as JSON, and back into one that the same factory built anew, bit for bit.

`snapshot` walks everything that an environment holds: its wrappers, their attributes, the objects in them. Plain data,
arrays, random generators and MuJoCo's structures are written out; an array that looks into another stays a look into
it, and two names of one object stay two names of one object. What belongs to the construction (functions, classes,
modules, specs, models' sources, renderers) is left to the new environment, if it has the same there. What can neither
be written nor rebuilt is refused by name.

Taken for constants: attributes of classes, except spaces, and what functions close over. Python's module `random` is
not saved. numpy's global generator is; environments of one process take turns with it (`env_worker.Slot`).
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import enum
import functools
import logging
import pathlib
import random
import re
import sys
import threading
import types
import zlib
from typing import Any

import numpy as np

from core_jax import mujoco_state
from core_jax.errors import UserError

_GLOBAL = np.random.get_state.__self__  # the RandomState behind numpy.random's functions
_BIT_GENERATORS = ('MT19937', 'PCG64', 'PCG64DXSM', 'Philox', 'SFC64')

# What is left to the construction: by type, and by the module of the type.
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, np.ufunc)
_OTHER = (np.dtype, re.Pattern, logging.Logger, type(threading.Lock()), type(threading.RLock()))
_LIBRARIES = (
    *('mujoco', 'dm_control.mjcf', 'gymnasium.envs.registration', 'gymnasium.envs.mujoco.mujoco_rendering'),
    *('pygame', 'OpenGL', 'glfw', 'xml'),
)


class _ABSENT:
    """Stands for the object of the new environment where it has none."""


def snapshot(env: Any) -> dict:
    """The state of `env` and of numpy's global generator; JSON carries it without loss.

    Raises UserError, with the attribute's name, where something holds state that cannot be read.
    """
    writer = _Writer()
    return {'environment': writer.write(env, 'env'), 'numpy': writer.write(np.random.get_state(legacy=False), 'numpy')}


def restore(env: Any, saved: dict) -> None:
    """Puts what `snapshot` gave into `env`, which the same factory built. Sets numpy's global generator too.

    Resets the environment and takes a step first, so that all is there that only these build.

    Raises UserError, with the attribute's name, where `env` is another environment, or cannot be made the same.
    """
    env.reset(seed=0)
    env.step(env.action_space.sample())
    reader = _Reader(env)
    if saved['environment'][2] != _name(env):
        raise reader.refusal('env', saved['environment'][2], env)
    reader.read(saved['environment'], env, 'env')
    np.random.set_state(reader.read(saved['numpy'], _ABSENT, 'numpy'))


def pack(data: Any) -> Any:
    """Plain data (dicts, lists, tuples, numbers, strings, arrays, generators) as JSON."""
    return _Writer().write(data, 'data')


def unpack(packed: Any) -> Any:
    """What `pack` was given."""
    return _Reader(None).read(packed, _ABSENT, 'data')


class _Writer:
    """Turns objects into nodes: None, bool, int and str are their own, any other is [kind, ...].

    An object that can change has its number in the node, and is ['same', number] wherever it is met again.
    """

    def __init__(self):
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []  # an id is good for as long as its object lives

    def write(self, x: Any, path: str) -> Any:
        if x is None or type(x) in (bool, int, str):
            return x
        if id(x) in self.numbers:
            return ['same', self.numbers[id(x)]]
        node = self._constant(x, path)
        if node is None:
            self.numbers[id(x)] = number = len(self.alive)
            self.alive.append(x)
            kind, *rest = self._changeable(x, path)
            node = [kind, number, *rest]
        return node

    def _constant(self, x: Any, path: str) -> list | None:
        """The node of something that cannot change, or that the environment does not own; else None."""
        kind = type(x)
        if kind is float:
            return ['float', repr(x)]
        if kind is bytes:
            return ['bytes', _encode(x)]
        if kind in (range, slice):
            return [kind.__name__, self._elements((x.start, x.stop, x.step), path)]
        if kind in (tuple, frozenset):
            return [kind.__name__, self._elements(x, path)]
        if isinstance(x, tuple) and hasattr(x, '_fields'):
            return ['named tuple', _name(x), self._elements(x, path)]
        if isinstance(x, enum.Enum):
            return ['enum', _name(x), x.name]
        if isinstance(x, pathlib.PurePath):
            return ['path', str(x)]
        if isinstance(x, np.generic) and x.dtype.kind not in 'OV':
            return ['scalar', x.dtype.str, _encode(x.tobytes())]
        if x is _GLOBAL:
            return ['global generator']
        if kind in (types.MethodType, types.BuiltinMethodType) and not isinstance(x.__self__, (*_CODE, type(None))):
            return ['method', self.write(x.__self__, f'{path}.__self__'), x.__name__]
        if isinstance(x, _CODE):
            return ['code', _name(x)]
        if isinstance(x, _OTHER) or (_within(kind.__module__, _LIBRARIES) and not mujoco_state.holds_state(x)):
            return ['structure', _name(x)]
        return None

    def _changeable(self, x: Any, path: str) -> list:
        """The node of something that can change, without its number."""
        kind = type(x)
        if kind in (dict, collections.OrderedDict):
            items = [[self._key(key, path), self.write(value, f'{path}[{key!r}]')] for key, value in x.items()]
            return ['mapping', kind.__name__, items]
        if kind in (list, set):
            return [kind.__name__, self._elements(x, path)]
        if kind is collections.deque:
            return ['deque', x.maxlen, self._elements(x, path)]
        if kind is np.ndarray:
            return self._array(x, path)
        if kind is functools.partial:
            return ['partial', [self.write(part, path) for part in (x.func, x.args, x.keywords)]]
        if kind is np.random.Generator:
            return ['generator', self.write(x.bit_generator, path)]
        if kind.__name__ in _BIT_GENERATORS and isinstance(x, np.random.BitGenerator):
            return ['bit generator', kind.__name__, self.write(x.state, path), self.write(x.seed_seq, path)]
        if kind is np.random.SeedSequence:
            return ['seed sequence', self.write(x.state | {'pool_size': x.pool_size}, path)]
        if kind is np.random.RandomState and x.get_state(legacy=False)['bit_generator'] == 'MT19937':
            return ['random state', self.write(x.get_state(legacy=False), path)]
        if kind is random.Random:
            return ['random', self.write(x.getstate(), path)]
        if mujoco_state.holds_state(x):
            model = self.write(x.model, f'{path}.model') if kind.__name__ == 'MjData' else None
            return ['mujoco', _name(x), model, self.write(mujoco_state.read(x), path)]
        if _hides_state(kind):
            raise UserError(f'cannot save the state of the environment: nothing can read that of {path}, a {_name(x)}')
        return ['object', _name(x), [[name, self.write(v, f'{path}.{name}')] for name, v in _attributes(x).items()]]

    def _key(self, x: Any, path: str) -> Any:
        node = self.write(x, path)
        if isinstance(node, list) and node[0] in ('object', 'same', 'structure'):
            raise UserError(f'cannot save the state of the environment: a key of {path} is a {_name(x)}')
        return node

    def _elements(self, x: Any, path: str) -> list:
        return [self.write(element, f'{path}[{i}]') for i, element in enumerate(x)]

    def _array(self, x: np.ndarray, path: str) -> list:
        if x.dtype == object:
            return ['objects', list(x.shape), self._elements(x.ravel().tolist(), path)]
        if x.dtype.kind == 'V':
            raise UserError(f'cannot save the state of the environment: {path} is an array of records')
        root = _root(x)
        if root is not x:
            offset = x.ctypes.data - root.ctypes.data
            looks = [x.dtype.str, list(x.shape), list(x.strides), offset, x.flags.writeable]
            return ['view', self.write(root, path), *looks]
        # The order in memory is kept, since sums depend on it.
        axes = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
        laid = x.transpose(axes)
        return ['array', x.dtype.str, axes, list(laid.shape), x.flags.writeable, _encode(laid.tobytes())]


class _Reader:
    """Turns nodes back into objects. `fresh`, the new environment's object at the same place, gives all the rest.

    Objects with attributes are changed in place, since structure may hold on to them; plain data is made anew, since
    others may have a use for what is there.
    """

    def __init__(self, env: Any):
        self.env = env
        self.objects: dict[int, Any] = {}  # by number
        self.taken: dict[int, Any] = {}  # objects of the new environment that were changed in place, by id

    def read(self, node: Any, fresh: Any, path: str) -> Any:
        if not isinstance(node, list):
            return node
        match node:
            case ['same', number]:
                return self.objects[number]
            case ['float', text]:
                return float(text)
            case ['bytes', text]:
                return _decode(text)
            case ['range', parts]:
                return range(*parts)
            case ['slice', parts]:
                return slice(*self._elements(parts, fresh, path))
            case ['tuple', elements]:
                return tuple(self._elements(elements, fresh, path))
            case ['frozenset', elements]:
                return frozenset(self._elements(elements, _ABSENT, path))
            case ['named tuple', name, elements]:
                return self._class(name, fresh, path)._make(self._elements(elements, fresh, path))
            case ['enum', name, member]:
                return self._class(name, fresh, path)[member]
            case ['path', text]:
                return pathlib.Path(text)
            case ['scalar', dtype, text]:
                return np.frombuffer(_decode(text), dtype)[0]
            case ['global generator']:
                return _GLOBAL
            case ['method', owner, name]:
                return getattr(self.read(owner, getattr(fresh, '__self__', _ABSENT), path), name)
            case ['code' | 'structure' as kind, name]:
                # None may be there: a renderer that is not built before it is needed.
                if _name(fresh) != name and not (kind == 'structure' and fresh is None):
                    raise self.refusal(path, name, fresh)
                return fresh
            case [kind, number, *rest]:
                return self._changeable(kind, number, rest, fresh, path)

    def _changeable(self, kind: str, number: int, rest: list, fresh: Any, path: str) -> Any:
        """Notes the object as soon as it is there, since what it holds may lead back to it."""
        match kind, rest:
            case 'object', [name, attributes]:
                self.objects[number] = target = self._target(name, fresh, path)
                self._read_attributes(target, attributes, path)
            case 'mujoco', [name, model, contents]:
                if fresh is _ABSENT or _name(fresh) != name:
                    raise self.refusal(path, name, fresh)
                self.objects[number] = fresh
                self.read(model, getattr(fresh, 'model', _ABSENT), f'{path}.model')
                mujoco_state.write(fresh, self.read(contents, _ABSENT, path), path)
            case 'mapping', [name, items]:
                self.objects[number] = target = collections.OrderedDict() if name == 'OrderedDict' else {}
                olds = fresh if isinstance(fresh, dict) else {}
                for key, node in items:
                    key = self.read(key, _ABSENT, path)
                    target[key] = self.read(node, olds.get(key, _ABSENT), f'{path}[{key!r}]')
            case 'list', [elements]:
                self.objects[number] = target = []
                target.extend(self._elements(elements, fresh, path))
            case 'set', [elements]:
                self.objects[number] = target = set()
                target.update(self._elements(elements, _ABSENT, path))
            case 'deque', [size, elements]:
                self.objects[number] = target = collections.deque(maxlen=size)
                target.extend(self._elements(elements, fresh, path))
            case 'partial', [elements]:
                olds = [fresh.func, fresh.args, fresh.keywords] if isinstance(fresh, functools.partial) else ()
                function, arguments, keywords = self._elements(elements, olds, path)
                self.objects[number] = functools.partial(function, *arguments, **keywords)
            case _:
                self.objects[number] = self._data(kind, rest, fresh, path)
        return self.objects[number]

    def _data(self, kind: str, rest: list, fresh: Any, path: str) -> Any:
        """Arrays and generators."""
        match kind, rest:
            case 'array', [dtype, axes, shape, writeable, text]:
                laid = np.frombuffer(_decode(text), dtype).reshape(shape)
                array = laid.transpose(np.argsort(axes).astype(int)).copy('K')
                if _is_foreign(fresh) and fresh.shape == array.shape and fresh.dtype == array.dtype:
                    fresh[...] = array
                    return fresh
                array.flags.writeable = writeable
                return array
            case 'view', [root, dtype, shape, strides, offset, writeable]:
                root = self.read(root, _root(fresh), path)
                array = np.ndarray(shape, dtype, root.ravel('K').view(np.uint8), offset, strides)
                array.flags.writeable = writeable
                return array
            case 'objects', [shape, elements]:
                array = np.empty(shape, object)
                olds = fresh.ravel().tolist() if isinstance(fresh, np.ndarray) else ()
                for index, element in zip(np.ndindex(*shape), self._elements(elements, olds, path), strict=True):
                    array[index] = element
                return array
            case 'generator', [bits]:
                return np.random.Generator(self.read(bits, _ABSENT, path))
            case 'bit generator', [name, state, seeds] if name in _BIT_GENERATORS:
                bits = getattr(np.random, name)(self.read(seeds, _ABSENT, path))
                bits.state = self.read(state, _ABSENT, path)
                return bits
            case 'seed sequence', [state]:
                return np.random.SeedSequence(**self.read(state, _ABSENT, path))
            case 'random state', [state]:
                generator = np.random.RandomState(0)
                generator.set_state(self.read(state, _ABSENT, path))
                return generator
            case 'random', [state]:
                generator = random.Random()
                generator.setstate(self.read(state, _ABSENT, path))
                return generator
        raise UserError(f'cannot restore the environment: {path} was saved as {kind!r}, which is unknown')

    def _elements(self, nodes: list, fresh: Any, path: str) -> list:
        olds = list(fresh) if isinstance(fresh, (list, tuple, collections.deque)) else []
        olds += [_ABSENT] * (len(nodes) - len(olds))
        return [self.read(node, old, f'{path}[{i}]') for i, (node, old) in enumerate(zip(nodes, olds, strict=False))]

    def _target(self, name: str, fresh: Any, path: str) -> Any:
        """The object to restore into: the new environment's, unless it is frozen or already serves at another place."""
        kind = self._class(name, fresh, path)
        if type(fresh) is not kind:
            return _new(kind)
        frozen = dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
        if not frozen and id(fresh) not in self.taken:
            self.taken[id(fresh)] = fresh
            return fresh
        twin = _new(kind)
        for attribute, value in _attributes(fresh).items():
            _set(twin, attribute, value)
        return twin

    def _read_attributes(self, target: Any, attributes: list, path: str) -> None:
        olds = _attributes(target)
        for name, node in attributes:
            old = olds.pop(name, _ABSENT)
            new = self.read(node, old, f'{path}.{name}')
            if new is not old:
                _set(target, name, new)
        for name in olds:
            _set(target, name, _ABSENT)

    def _class(self, name: str, fresh: Any, path: str) -> type:
        """The class of that name: that of `fresh` or another object, or one beside the environment's or a wrapper's."""
        for other in (fresh, *self.taken.values()):
            if _name(other) == name and not isinstance(other, type):
                return type(other)
        module, _, qualname = name.rpartition(':')
        env, modules = self.env, set()
        while env is not None:
            modules |= {kind.__module__ for kind in type(env).__mro__}
            env = getattr(env, 'env', None)
        found = vars(sys.modules[module]).get(qualname) if module in modules else None
        if not isinstance(found, type):
            raise self.refusal(path, name, fresh)
        return found

    def refusal(self, path: str, name: str, fresh: Any) -> UserError:
        there = 'nothing' if fresh is _ABSENT else _name(fresh)
        return UserError(f'cannot restore the environment: {path} was {name}, and a new one has {there} there')


def _name(x: Any) -> str:
    """'module:qualified name' of a class or function, or of the class of anything else."""
    named = x if isinstance(x, type | types.FunctionType) else type(x)
    return f'{named.__module__}:{named.__qualname__}'


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + '.') for package in packages)


def _attributes(x: Any) -> dict[str, Any]:
    """Attributes by name: those of the object, in slots or not, and spaces of its class, which have generators."""
    from gymnasium.spaces import Space

    found = {}
    for kind in type(x).__mro__:
        found |= {name: value for name, value in vars(kind).items() if isinstance(value, Space) and name not in found}
    for name in _slots(type(x)):
        if hasattr(x, name):
            found[name] = getattr(x, name)
    return found | getattr(x, '__dict__', {})


def _set(x: Any, name: str, value: Any) -> None:
    """Sets or removes an attribute, of frozen objects too and past any property of that name."""
    if value is _ABSENT:
        object.__delattr__(x, name) if name in _slots(type(x)) else x.__dict__.pop(name)
    elif name in _slots(type(x)):
        object.__setattr__(x, name, value)
    else:
        x.__dict__[name] = value


@functools.cache
def _slots(kind: type) -> tuple[str, ...]:
    slotted = [vars(base) for base in kind.__mro__ if '__slots__' in vars(base)]
    return tuple(
        name for base in slotted for name, value in base.items() if isinstance(value, types.MemberDescriptorType)
    )


def _new(kind: type) -> Any:
    """An instance without attributes."""
    of_python = 1 << 9  # the flag of classes that came from a class statement
    written_in_c = next(base for base in kind.__mro__ if not base.__flags__ & of_python)
    return written_in_c.__new__(kind)


def _hides_state(kind: type) -> bool:
    """Whether instances hold more than attributes: they are written in C, then, and larger than these take."""
    pointers = len(_slots(kind)) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    return kind.__itemsize__ > 0 or kind.__basicsize__ > object.__basicsize__ + pointers * tuple.__itemsize__


def _root(x: Any) -> Any:
    """The array that `x` is a look into, or `x`."""
    while isinstance(x, np.ndarray) and isinstance(x.base, np.ndarray):
        x = x.base
    return x


def _is_foreign(x: Any) -> bool:
    """Whether `x` is an array in memory of another library, such as MuJoCo's."""
    return isinstance(x, np.ndarray) and x.flags.writeable and not isinstance(x.base, (type(None), np.ndarray, bytes))


def _encode(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 1)).decode()


def _decode(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
