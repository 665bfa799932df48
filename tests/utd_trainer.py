"""A small sweep, and in the place of training the curves of a known law, written at once."""

import numpy as np

from core_jax.runs import Run
from scaling.utd import example, settings, sweep
from scaling.utd.cells import MEASURES

PROFILE = {
    'name': 'micro',
    'common': {'agent': 'sac', 'hidden_dims': (8,), 'warmup': 100, 'log_interval': 100, 'eval_interval': 0},
    'environments': {'pendulum': {'steps': 8_100}, 'point_mass': {'steps': 8_100}},
    'grid': {'utd': (0.5, 2.0, 8.0), 'batch_size': (64, 128), 'learning_rate': (3e-4, 1.2e-3), 'seeds': (0, 1)},
    'fitted': {'utd': (0.5, 1.0, 2.0, 4.0, 8.0), 'seeds': (100, 101, 102)},
    'thresholds': {'lowest': 200.0, 'highest': 600.0, 'count': 4},
    'step_cost': 1e6,
}
COMMON = PROFILE['common'] | {'env': 'pendulum', 'steps': 1_100}


class Trainer:
    """In the place of `api.train`: leaves what a run leaves. `calls`: the pack folders that it was asked for."""

    def __init__(self):
        self.calls: list[str] = []
        self.accidents: dict[str, Exception] = {}  # part of a folder's name: what is raised
        self.frozen = None  # number of a member that goes non-finite at update 60
        self.flat = self.poor = False

    def __call__(self, *, fields, preset, workdir, resume, builder, devices):
        name = workdir.rpartition('/')[2]
        self.calls.append(name)
        for part, error in self.accidents.items():
            if part in name:
                raise error
        config = settings.resolve(fields, preset)
        run = Run.open(workdir, config.to_dict(), paper='utd', command='-', resume=resume, model_size=1_000)
        seeds, hparams = settings.members(config)
        rates = hparams['critic_learning_rate']
        for number, (seed, rate) in enumerate(zip(seeds, rates, strict=True)):
            self._write(run, config, number if len(seeds) > 1 else None, seed, rate)
        run.finish({}, seed=seeds, steps=settings.total_updates(config), wall_seconds=1.0)
        run.close()

    def _write(self, run, config, member, seed, rate):
        own = {} if member is None else {'member': member}
        steps = np.arange(config.warmup + config.log_interval, config.steps + 1, config.log_interval)
        for step, value in zip(steps, self._returns(config, steps, seed, rate), strict=True):
            update = int(config.utd * (step - config.warmup))
            if self.frozen == member and self.frozen is not None and update > 60:
                run.write('train', 60, own | {'critic/loss': np.nan, 'nonfinite': True})
                return
            told = {'environment_steps': float(step), 'online/return': value if step >= 200 else np.nan}
            run.write('train', update, own | told | dict.fromkeys(MEASURES, 1.0))

    def _returns(self, config, steps, seed, rate):
        if self.poor:
            return np.full(len(steps), 10.0)
        rng = np.random.default_rng([seed, int(100 * config.utd), config.batch_size, int(1e6 * rate)])
        sigma = 1.0 if self.flat else config.utd
        off = np.log(config.batch_size / example.best_batch_size(sigma)) ** 2
        off += np.log(rate / example.best_learning_rate(sigma)) ** 2
        levels = np.linspace(0, 900, 200)
        needed = example.data_needed(sigma, levels) / 30 * np.exp(0.1 * off + 0.03 * rng.standard_normal())
        return np.interp(steps, needed, levels)


def grid(profile=PROFILE):
    return sweep.grid_of(profile)
