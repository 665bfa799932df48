"""Offline data of small tasks with known values, told apart by a one-hot observation: one compiled run serves all.

BANDIT       two modes at -0.5 and 0.5, reward = action, ends
FIRST, LAST  two steps, reward 0 then 1, ends: Q = discount, 1
LOOP         reward 1 for ever, cut by a time limit: Q = 1 / (1 - discount)
MINUS, PLUS  reward = -action or +action, actions uniform in -1..1, ends
"""

import jax
import numpy as np
from numpy_nets import scalars, xavier_state

from core_jax import replay, sources

BANDIT, FIRST, LAST, LOOP, MINUS, PLUS = np.eye(6, dtype=np.float32)


def probe_rows():
    rng = np.random.default_rng(0)
    rows = []
    for i in range(3000):
        action = (0.5 if i % 2 else -0.5) + 0.1 * rng.normal()
        rows += [(BANDIT, action, action, 0, 0), (BANDIT, 0, 0, 0, 1)]
    for _ in range(300):
        a, b, c, minus, plus = rng.uniform(-1, 1, 5)
        rows += [(FIRST, a, 0, 1, 0), (LAST, b, 1, 0, 0), (LAST, 0, 0, 0, 1)]
        rows += [(LOOP, c, 1, 1, 0), (LOOP, 0, 0, 1, 1)]
        rows += [(MINUS, minus, -minus, 0, 0), (MINUS, 0, 0, 0, 1), (PLUS, plus, plus, 0, 0), (PLUS, 0, 0, 0, 1)]
    return dataset(rows)


def dataset(rows):
    """From rows of observation, action, reward, mask, end of trajectory (which has the last observation only)."""
    observations, actions, rewards, masks, ends = map(np.array, zip(*rows, strict=True))
    return replay.dataset(observations, np.clip(actions, -1, 1)[:, None], rewards, masks, ends)


def train(agent, cfg, rows, updates, members=1, **hparams):
    """(learner, one state a member): two thirds of the updates at cfg's learning rate, the rest at a tenth of it.

    The members differ in their hparams and share a program. There is no driver: the bare loop compiles faster.
    """
    learner, source = agent.make(cfg, 1), sources.offline(rows, cfg.batch_size, horizon=cfg.get('horizon', 1))

    @jax.jit
    def run(state, rows, hparams, n):
        def step(_, state):
            key = jax.random.fold_in(jax.random.key(0), state.step)
            return learner.update(state, source.sample(rows, (), state, key)[1], hparams)[0]

        return jax.lax.fori_loop(0, n, step, state)

    states = []
    for i in range(members):
        state, own = xavier_state(learner, source.example), {name: values[i] for name, values in hparams.items()}
        for rate, n in ((cfg.learning_rate, 2 * updates // 3), (cfg.learning_rate / 10, updates // 3)):
            state = run(state, rows, scalars(learner, learning_rate=rate, **own), np.int32(n))
        states.append(jax.device_get(state))
    return learner, states
