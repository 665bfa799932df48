"""Counts the work in a compiled program: matrix FLOPs and collectives, loop bodies times their trip counts.

The compiler's own `cost_analysis()` counts the body of a loop once, so a scan of K updates looks like one. Here the
text of the optimized program is read instead: it is what one device executes, after partitioning, fusion and dead-code
removal, and the only place where the collectives are.

What counts as a FLOP: two for each multiply-add of a matrix product or a convolution, nothing else. A TPU program has
matrix products in three shapes, and all of them are counted exactly:

    dot           2 x output elements x contracted size
    convolution   what the TPU compiler makes of a dot. A batch dimension becomes a spatial one with strides, dilation
                  and padding, so only the (output, kernel) pairs that meet an input element are counted
    multiply and  what becomes of a product with a vector (one row a device), recognised by the op_name that the
    reduce        compiler copies from the dot: 2 x elements of the product

The trip count of a loop is the compiler's `known_trip_count`, or is worked out from start, step and bound (TPU programs
do not carry the former). A loop around something that counts must have a length that the program itself fixes, unless
the caller says how many turns to count for one that only the run decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

COLLECTIVES = frozenset(
    {
        'all-gather', 'all-reduce', 'all-to-all', 'collective-broadcast', 'collective-permute', 'ragged-all-to-all',
        'reduce-scatter',
        'infeed', 'outfeed', 'recv', 'send',  # traffic with the host, such as a callback left in a step
    }
)  # fmt: skip


class Collective(NamedTuple):
    """All collectives of one kind in a program, as one device sees them."""

    ops: int  # instructions in the program; an asynchronous start and its done are one
    executions: int  # the same, times the trip counts of the loops around them
    bytes: int  # what the device puts in (operands), summed over executions


class Work(NamedTuple):
    """What one device does in one call of the program."""

    flops: int = 0
    collectives: dict[str, Collective] = {}


def count(text: str, turns: int | None = None) -> Work:
    """The work of a compiled program, given as the text of its optimized HLO (`compiled.as_text()`).

    turns: what a loop counts for whose length is known only at run time. Without, ValueError is raised where something
    that counts lies in one.
    """
    return _Module(text, turns).work()


class _Instruction(NamedTuple):
    name: str
    shape: str  # 'f32[8,4]{1,0}' or '(f32[8]{0}, s32[])'
    opcode: str
    inside: str  # the text between the parentheses: operands, or the value of a constant
    attributes: str  # the text behind them

    @property
    def operands(self) -> list[str]:
        return re.findall(r'%([\w.\-]+)', self.inside)

    def attribute(self, pattern: str, default: str = '') -> str:
        found = re.search(pattern, self.attributes)
        return found.group(1) if found else default

    def names(self, key: str) -> list[str]:
        """The computations behind `key=`, as in calls=%f or branch_computations={%f, %g}."""
        return re.findall(r'[\w.\-]+', self.attribute(rf'\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)'))


_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_LEFT = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_OPCODE = re.compile(r' ([\w\-]+)\(')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,<=]*)\]')
# One operand in, the same value out.
_SAME = frozenset({'bitcast', 'convert', 'copy', 'copy-done', 'copy-start', 'opt-barrier', 'reshape'})


class _Module:
    """The computations of a program by name, and the walk over them."""

    def __init__(self, text: str, turns: int | None = None):
        self.turns = turns
        self.computations: dict[str, dict[str, _Instruction]] = {}
        self.roots: dict[str, str] = {}
        self.callers: dict[str, list[tuple[str, _Instruction]]] = {}
        self.entry = ''
        self._totals: dict[str, Work] = {}
        where = ''
        for line in text.splitlines():
            if header := _HEADER.match(line):
                where = header.group(2)
                self.computations[where] = {}
                if header.group(1):
                    self.entry = where
            elif where and (left := _LEFT.match(line)):
                instruction = _read(left.group(2), line[left.end() :])
                self.computations[where][instruction.name] = instruction
                if left.group(1):
                    self.roots[where] = instruction.name
                for key in ('calls', 'to_apply', 'body', 'condition'):
                    for callee in instruction.names(key):
                        self.callers.setdefault(callee, []).append((where, instruction))
        if not self.entry:
            raise ValueError('the text holds no ENTRY computation; is it optimized HLO?')

    def work(self) -> Work:
        return self._total(self.entry)

    def _total(self, where: str) -> Work:
        if where not in self._totals:
            total = Work()
            for instruction in self.computations[where].values():
                total = _add(total, self._one(where, instruction))
            self._totals[where] = total
        return self._totals[where]

    def _one(self, where: str, instruction: _Instruction) -> Work:
        opcode = instruction.opcode
        if opcode == 'while':
            body = self._total(instruction.names('body')[0])
            return _times(body, self._trip_count(where, instruction)) if body != Work() else body
        if opcode == 'conditional':
            keys = ('branch_computations', 'true_computation', 'false_computation')
            return _most([self._total(name) for key in keys for name in instruction.names(key)])
        if opcode in ('fusion', 'async-start'):
            return self._total(instruction.names('calls')[0])
        if opcode == 'call':
            return self._total(instruction.names('to_apply')[0])
        if opcode == 'dot':
            return Work(self._dot(where, instruction))
        if opcode == 'convolution':
            return Work(self._convolution(where, instruction))
        if opcode in ('reduce', 'multiply'):
            return Work(self._reduced_dot(where, instruction))
        kind = opcode.removesuffix('-start')
        if kind == 'all-reduce' and where.startswith('all-reduce-scatter'):
            kind = 'reduce-scatter'  # the TPU compiler writes it so: a fusion of a sum and the slice of it that is kept
        if instruction.attribute(r'"flag_start":"(-?\d+)"', '-1') != '-1':
            return Work()  # a piece of an asynchronous one, spread over fusions that compute meanwhile; the last counts
        if kind in COLLECTIVES:
            size = sum(_bytes(self.computations[where][name].shape) for name in instruction.operands)
            return Work(0, {kind: Collective(1, 1, size)})
        return Work()

    def _dims(self, where: str, name: str) -> list[int]:
        return next(_arrays(self.computations[where][name].shape))[1]

    def _dot(self, where: str, dot: _Instruction) -> int:
        left = self._dims(where, dot.operands[0])
        contracted = [left[int(i)] for i in re.findall(r'\d+', dot.attribute(r'lhs_contracting_dims=\{([\d,]*)\}'))]
        return 2 * _size(next(_arrays(dot.shape))[1]) * _size(contracted)

    def _convolution(self, where: str, conv: _Instruction) -> int:
        left, right, out = re.fullmatch(r'(\w+)_(\w+)->(\w+)', conv.attribute(r'dim_labels=([\w>\-]+)')).groups()
        inputs, kernel = (self._dims(where, name) for name in conv.operands)
        outputs = next(_arrays(conv.shape))[1]
        window = conv.attribute(r'window=\{([^}]*)\}')
        # The kernel's `i` is the input features of one group already; the batch is split where groups are over batches.
        pairs = inputs[left.index('b')] * kernel[right.index('i')] * kernel[right.index('o')]
        pairs //= int(conv.attribute(r'batch_group_count=(\d+)', '1'))
        for axis in (c for c in left if c.isdigit()):
            i = int(axis)
            pad = _window(window, 'pad', i, '0_0').split('_')[0]
            pairs *= _meetings(
                inputs[left.index(axis)],
                kernel[right.index(axis)],
                outputs[out.index(axis)],
                stride=int(_window(window, 'stride', i, '1')),
                pad=int(pad),
                input_dilation=int(_window(window, 'lhs_dilate', i, '1')),
                kernel_dilation=int(_window(window, 'rhs_dilate', i, '1')),
            )
        return 2 * pairs

    def _reduced_dot(self, where: str, instruction: _Instruction) -> int:
        """A dot that became a product of vectors' broadcasts, summed (reduce) or, with nothing to contract, not."""
        if not _is_dot(instruction):
            return 0
        if instruction.opcode == 'multiply':
            summed = any(
                user.opcode == 'reduce' and _is_dot(user) and user.operands[0] == instruction.name
                for user in self.computations[where].values()
            )
            return 0 if summed else 2 * _size(next(_arrays(instruction.shape))[1])
        return 2 * _size(self._dims(where, instruction.operands[0]))

    def _trip_count(self, where: str, loop: _Instruction) -> int:
        known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if known:
            return int(known)
        condition, body = loop.names('condition')[0], loop.names('body')[0]
        place, test, _ = self._origin(condition, self.roots[condition])
        if test.opcode == 'compare':
            direction = test.attribute(r'direction=(\w+)')
            counter, bound = test.operands
            if self._integer(place, counter) is not None:
                counter, bound = bound, counter
                direction = {'LT': 'GT', 'GT': 'LT', 'LE': 'GE', 'GE': 'LE'}.get(direction, direction)
            element, bound = self._origin(place, counter, stop=condition)[2], self._integer(place, bound)
            start = None if element is None else self._integer(where, loop.operands[0], element)
            step = None if element is None else self._step(body, element)
            beyond = {'LT': 0, 'GT': 0, 'NE': 0, 'LE': 1, 'GE': -1}.get(direction)
            if None not in (bound, start, step, beyond) and step:
                return len(range(start, bound + beyond, step))
        if self.turns is not None:
            return self.turns
        raise ValueError(f'loop %{loop.name} holds matrix products or collectives, and its trip count is unknown')

    def _step(self, body: str, element: int) -> int | None:
        """What one turn of the loop adds to its counter, the carry's `element`; None where it is no constant."""
        place, add, _ = self._origin(body, self.roots[body], element, stop=body)
        if add.opcode != 'add':
            return None
        carried = [self._origin(place, name, stop=body) for name in add.operands]
        steps = [self._integer(place, name) for name in add.operands]
        for (source, instruction, index), step in zip(carried, reversed(steps), strict=True):
            if source == body and instruction.opcode == 'parameter' and index == element:
                return step
        return None

    def _integer(self, where: str, name: str, element: int | None = None) -> int | None:
        """The value of a scalar that is constant over the whole program, otherwise None."""
        _, source, _ = self._origin(where, name, element)
        whole = source.opcode == 'constant' and re.fullmatch(r'-?\d+', source.inside)
        return int(source.inside) if whole else None

    def _origin(
        self, where: str, name: str, element: int | None = None, stop: str = ''
    ) -> tuple[str, _Instruction, int | None]:
        """Follows a value back to the instruction that makes it: through copies, tuples, calls and unchanged carries.

        Returns (computation, instruction, element of its tuple); ends at a parameter of the computation `stop`.
        """
        instruction = self.computations[where][name]
        opcode = instruction.opcode
        if opcode in _SAME:
            return self._origin(where, instruction.operands[0], element, stop)
        if opcode == 'get-tuple-element':
            index = int(instruction.attribute(r'index=(\d+)'))
            return self._origin(where, instruction.operands[0], index, stop)
        if opcode == 'tuple' and element is not None:
            return self._origin(where, instruction.operands[element], None, stop)
        if opcode in ('fusion', 'call'):
            callee = instruction.names('calls' if opcode == 'fusion' else 'to_apply')[0]
            return self._origin(callee, self.roots[callee], element, stop)
        if opcode == 'while' and self._unchanged(instruction, element):
            return self._origin(where, instruction.operands[0], element, stop)
        if opcode == 'parameter' and where != stop and len(self.callers.get(where, ())) == 1:
            place, caller = self.callers[where][0]
            if caller.opcode in ('fusion', 'call'):
                return self._origin(place, caller.operands[int(instruction.inside)], element, stop)
            if caller.opcode == 'while' and self._unchanged(caller, element):
                return self._origin(place, caller.operands[0], element, stop)
        return where, instruction, element

    def _unchanged(self, loop: _Instruction, element: int | None) -> bool:
        """Whether this element of the carry leaves every turn as it entered."""
        body = loop.names('body')[0]
        if element is None:
            return False
        place, source, index = self._origin(body, self.roots[body], element, stop=body)
        return source.opcode == 'parameter' and place == body and index == element


def _read(name: str, text: str) -> _Instruction:
    """'f32[4]{0} add(%a, %b), metadata=...' taken apart. Layouts hold parentheses too, so these are matched."""
    start = _close(text, 0) if text.startswith('(') else text.index(' ')
    opcode = _OPCODE.match(text, start)
    end = _close(text, opcode.end() - 1)
    return _Instruction(name, text[:start], opcode.group(1), text[opcode.end() : end - 1], text[end:])


def _close(text: str, start: int) -> int:
    """The position behind the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += {'(': 1, ')': -1}.get(text[position], 0)
        if not depth:
            return position + 1
    raise ValueError(f'unbalanced parentheses in HLO line: {text[:200]}')


def _arrays(shape: str) -> Iterator[tuple[str, list[int]]]:
    """(element type, dimensions) of each array in a shape."""
    for kind, dims in _ARRAY.findall(shape):
        yield kind, [int(d) for d in re.findall(r'\d+', dims)]


def _bytes(shape: str) -> int:
    total = 0
    for kind, dims in _arrays(shape):
        bits = 8 if kind == 'pred' else int((re.search(r'\d+', kind) or ['0'])[0])  # bf16, f8e4m3fn, s4; token is 0
        total += -(-_size(dims) * bits // 8)
    return total


def _size(dims: list[int]) -> int:
    return int(np.prod(dims, dtype=np.int64))


def _is_dot(instruction: _Instruction) -> bool:
    return instruction.attribute(r'op_name="([^"]*)"').endswith('dot_general')


def _window(window: str, key: str, axis: int, default: str) -> str:
    """Axis `axis` of 'size=3x3 stride=2x1 pad=1_1x0_0'."""
    found = re.search(rf'\b{key}=(\S+)', window)
    return found.group(1).split('x')[axis] if found else default


def _meetings(
    inputs: int, kernel: int, outputs: int, *, stride: int, pad: int, input_dilation: int, kernel_dilation: int
) -> int:
    """How many pairs (output, kernel position) along one dimension meet an input element, not padding or a hole."""
    at = np.arange(outputs)[:, None] * stride - pad + np.arange(kernel) * kernel_dilation
    return int(np.sum((at >= 0) & (at <= (inputs - 1) * input_dilation) & (at % input_dilation == 0)))


def _add(a: Work, b: Work) -> Work:
    if not b.collectives:
        return Work(a.flops + b.flops, a.collectives)
    merged = dict(a.collectives)
    for kind, new in b.collectives.items():
        old = merged.get(kind, Collective(0, 0, 0))
        merged[kind] = Collective(*(x + y for x, y in zip(old, new, strict=True)))
    return Work(a.flops + b.flops, merged)


def _times(work: Work, turns: int) -> Work:
    return Work(
        work.flops * turns,
        {k: Collective(c.ops, c.executions * turns, c.bytes * turns) for k, c in work.collectives.items()},
    )


def _most(branches: list[Work]) -> Work:
    """The most that any branch does, kind by kind: which one runs is known only at run time."""
    collectives: dict[str, Collective] = {}
    for branch in branches:
        for kind, new in branch.collectives.items():
            old = collectives.get(kind, Collective(0, 0, 0))
            collectives[kind] = Collective(*(max(x, y) for x, y in zip(old, new, strict=True)))
    return Work(max(branch.flops for branch in branches), collectives)
