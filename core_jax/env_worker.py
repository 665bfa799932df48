"""What runs inside a worker: a process that owns some environments, steps them, and never imports jax.

Orders and outcomes lie in memory that the worker shares with its parent, one record a slot. The pipe between them
carries the rest: first the worker says what its spaces are and gets the shared memory; from then on the number of a
group of slots means "carry out that group's orders", and an empty message means "done". SNAPSHOT asks for the states of
the slots, {slot: state}; such a dict instead of a number means "go on from these". A Failure instead of any answer is
the worker's last word. The pipe is also the leash: it closes when the parent dies, and then the worker leaves.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler, recv_handle
from typing import Any, NamedTuple

import numpy as np

from core_jax import env_state
from core_jax.errors import UserError

# What an order's `seed` says where it is none (a seed, at least 0, means: reset with it).
STEP, IDLE = -1, -2
SNAPSHOT = 255  # instead of a group's number


class Spaces(NamedTuple):
    """What the parent must know of an environment. low, high: bounds of an action, float32.

    observation_dtype: uint8 where the environment's own is (pixels), else float32.
    """

    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    low: np.ndarray
    high: np.ndarray


class Failure(NamedTuple):
    """Why a worker is gone. user: the text is one line for the user; otherwise it is a traceback."""

    text: str
    user: bool


def records(spaces: Spaces, slots: int) -> tuple[np.dtype, np.dtype, int]:
    """The records (order, outcome) of one slot, and the bytes that all slots take: first all orders, then all outcomes.

    order: seed (or STEP, IDLE), action.
    outcome: reward, success (NaN where there is none), done, terminated (done other than by a time limit), observation.
    """
    order = np.dtype([('seed', np.int64), ('action', np.float32, spaces.low.shape)], align=True)
    outcome = np.dtype(
        [
            ('reward', np.float64),
            ('success', np.float64),
            ('done', np.bool_),
            ('terminated', np.bool_),
            ('observation', spaces.observation_dtype, spaces.observation_shape),
        ],
        align=True,
    )
    return order, outcome, slots * (order.itemsize + outcome.itemsize)


def share(memory: mmap.mmap, spaces: Spaces, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """(orders [slots], outcomes [slots]) that live in `memory`."""
    order, outcome, _ = records(spaces, slots)
    orders = np.frombuffer(memory, order, slots)
    return orders, np.frombuffer(memory, outcome, slots, offset=orders.nbytes)


class Slot:
    """One environment, and a global generator of numpy's for it alone, so that slots share a process without a trace.

    Taking turns drops the normal deviate that the global generator may hold back for its next call.

    Raises UserError where the environment's observations or actions are no Box.
    """

    def __init__(self, make_env: Callable[[], Any]):
        from gymnasium.spaces import Box

        self._global_generator = np.random.MT19937()
        np.random.set_bit_generator(self._global_generator)  # some environments draw while they are built
        self.env = make_env()
        for name in ('observation_space', 'action_space'):
            space = getattr(self.env, name, None)
            if not isinstance(space, Box):
                raise UserError(f'{name} of {self.env} is {space}; a roll-out needs a Box: wrap the environment')
        self.space = self.env.action_space  # kept: some environments make a new one at every look

    def spaces(self) -> Spaces:
        space = self.env.observation_space
        dtype = np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)
        return Spaces(space.shape, dtype, self.space.low.astype(np.float32), self.space.high.astype(np.float32))

    def reset(self, seed: int) -> np.ndarray:
        """The first observation. Seeds whatever else environments are known to draw from at a reset."""
        np.random.set_bit_generator(self._global_generator)
        np.random.seed(seed)
        self.space.seed(seed)
        return self.env.reset(seed=seed)[0]

    def step(self, action: np.ndarray) -> tuple[float, float, bool, bool, np.ndarray]:
        """An `outcome` record; `action` is float32 and within the bounds."""
        np.random.set_bit_generator(self._global_generator)
        observation, reward, terminated, truncated, info = self.env.step(action.astype(self.space.dtype))
        return reward, info.get('success', np.nan), terminated or truncated, terminated, observation

    def get_state(self) -> dict:
        """JSON-able. Raises UserError where the environment's state cannot be read."""
        np.random.set_bit_generator(self._global_generator)
        return env_state.snapshot(self.env)

    def set_state(self, state: dict) -> None:
        """Goes on exactly from what `get_state` returned in another process."""
        np.random.set_bit_generator(self._global_generator)
        env_state.restore(self.env, state)


def serve(connection: Any, payload: bytes, groups: list[list[int]], slots: int) -> None:
    """Owns the slots `groups[g]` of every group g (of `slots` in all) until the parent closes the pipe.

    The environments are built one after the other until the first orders come, so that the parent can compile and
    train in the meantime; those that are still missing then are built when an order names their slot.
    """
    built: dict[int, Slot] = {}
    mine = sorted(slot for group in groups for slot in group)

    def get(slot: int) -> Slot:
        if slot not in built:
            built[slot] = Slot(make_env)
        return built[slot]

    with last_words(connection):
        try:
            make_env = load_factory(payload)
            spaces = get(mine[0]).spaces()
            connection.send(spaces)
            for slot in mine[1:]:
                if connection.poll():
                    break
                get(slot)
            handle = recv_handle(connection)
            orders, outcomes = share(mmap.mmap(handle, 0), spaces, slots)
            os.close(handle)
            while True:
                message = connection.recv_bytes()
                if len(message) > 1:
                    for slot, state in ForkingPickler.loads(message).items():
                        get(slot).set_state(state)
                elif message[0] == SNAPSHOT:
                    connection.send({slot: get(slot).get_state() for slot in mine})
                    continue
                else:
                    group = groups[message[0]]
                    for slot, (seed, action) in zip(group, orders[group], strict=True):
                        if seed == STEP:
                            outcomes[slot] = get(slot).step(action)
                        elif seed != IDLE:
                            outcomes['observation'][slot] = get(slot).reset(int(seed))
                connection.send_bytes(b'')
        finally:
            for slot in built.values():
                slot.env.close()


def load_factory(payload: bytes, kind: str = 'environment factory') -> Callable:
    """The function that the parent sent, of this kind. Raises UserError where this process cannot import it."""
    # mujoco imports glfw, which says on every headless machine that there is no display.
    warnings.filterwarnings('ignore', module='glfw')
    try:
        return ForkingPickler.loads(payload)
    except (ImportError, AttributeError) as error:
        raise UserError(f'a worker cannot import the {kind} ({error}); define it in a module') from error


@contextlib.contextmanager
def last_words(connection: Any) -> Iterator[None]:
    """Sends the parent whatever ends this block; a parent that is gone, or has closed the pipe, is no error."""
    try:
        yield
    except Exception as error:
        user = isinstance(error, UserError)
        with contextlib.suppress(ConnectionError):
            connection.send(Failure(str(error) if user else traceback.format_exc(), user))
