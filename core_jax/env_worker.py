"""What runs inside an evaluation worker: a process that owns some environments, steps them, and never imports jax.

Two messages, over one pipe. The parent sends a list of orders (slot, seed, action): with a seed the slot's environment
is reset, without one it takes the action. The worker answers with a list of Outcome in the same order, or with one
Failure, after which it is gone. The pipe is also the leash: it closes when the parent dies, and then the worker leaves.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np

from core_jax.errors import UserError


class Outcome(NamedTuple):
    """What a reset or a step gave. observation: float32; success: info['success'], NaN where there is none."""

    observation: np.ndarray
    reward: float = 0.0
    done: bool = False
    success: float = float('nan')


class Failure(NamedTuple):
    """Why a worker is gone. user: the text is one line for the user; otherwise it is a traceback."""

    text: str
    user: bool


class Slot:
    """One environment. Raises UserError where it is none that can be batched."""

    def __init__(self, make_env: Callable[[], Any]):
        from gymnasium import spaces

        self.env = make_env()
        for name in ('observation_space', 'action_space'):
            space = getattr(self.env, name, None)
            if not isinstance(space, spaces.Box):
                raise UserError(f'{self.env} has {name} {space}; only Box can be batched here: wrap the environment')
        self.space = self.env.action_space  # kept: some environments make a new one at every look

    def reset(self, seed: int) -> Outcome:
        """Starts an episode; `seed` goes to the environment and to its action space, from which some resets draw."""
        self.space.seed(seed)
        observation, _ = self.env.reset(seed=seed)
        return Outcome(np.asarray(observation, np.float32))

    def step(self, action: np.ndarray) -> Outcome:
        """One step with `action` clipped to the bounds of the action space and cast to its dtype."""
        action = np.clip(action, self.space.low, self.space.high).astype(self.space.dtype)
        observation, reward, terminated, truncated, info = self.env.step(action)
        success = float(info.get('success', np.nan))
        return Outcome(np.asarray(observation, np.float32), float(reward), bool(terminated or truncated), success)


def load_factory(payload: bytes) -> Callable[[], Any]:
    """The environment factory that the parent sent. Raises UserError where this process cannot import it."""
    try:
        return ForkingPickler.loads(payload)
    except (ImportError, AttributeError) as error:
        raise UserError(f'a worker cannot import the environment factory ({error}); define it in a module') from error


def serve(connection: Any, payload: bytes, numbers: list[int]) -> None:
    """Builds the environments of the slots `numbers` and obeys orders until the parent closes the pipe.

    They are built in this order while there is nothing else to do, so that the parent can compile and train in the
    meantime; an order for a slot that is not built yet builds it first.
    """
    # mujoco imports glfw, which says on every headless machine that there is no display.
    warnings.filterwarnings('ignore', module='glfw')
    slots: dict[int, Slot] = {}
    try:
        make_env = load_factory(payload)
        while True:
            for number in numbers:
                if number not in slots and not connection.poll():
                    slots[number] = Slot(make_env)
            try:
                orders = connection.recv()
            except (EOFError, ConnectionError):
                return
            outcomes = []
            for number, seed, action in orders:
                if number not in slots:
                    slots[number] = Slot(make_env)
                outcomes.append(slots[number].step(action) if seed is None else slots[number].reset(seed))
            connection.send(outcomes)
    except BrokenPipeError:
        pass  # the parent died while we worked
    except UserError as error:
        connection.send(Failure(str(error), user=True))
    except Exception:
        connection.send(Failure(traceback.format_exc(), user=False))
    finally:
        for slot in slots.values():
            slot.env.close()
