"""The comparison at the paper's size, for an accelerator: 1M updates, four layers of 512, 1M play transitions.

    python -m fql_jax.reproduce --config=configs/reproduce_fql/paper.py

Paper: the dashes in the picture; FQL, IQL and IFQL on the default tasks as quoted by a third party, the others over the
five tasks and from memory, unverified. Not run here. The hyperparameters are those of configs/fql/offline and
configs/fql/baselines; pointmaze is not in the paper, and takes those of cube-single.
"""

QUOTED = ('paper', 'quoted by a third party, default task, 8 seeds')
MEMORY = ('paper', 'from memory, unverified, five tasks, 8 seeds')


def get_config() -> dict:
    return {
        'name': 'paper',
        'title': "Offline agents on OGBench, the paper's size",
        'scale': '1M updates, 512x4, play data of 1M transitions',
        'note': 'Paper: 8 seeds. The mean of the last three evaluations there, the last one here.',
        'out': 'results/fql_reproduce_paper.json',
        'common': {'seeds': 3, 'video': False, 'eval_interval': 100_000, 'save_interval': 100_000},
        'environments': {
            'cube-single': {'env': 'cube-single-play-singletask-v0'},
            'cube-double': {'env': 'cube-double-play-singletask-v0'},
            'scene': {'env': 'scene-play-singletask-v0'},
            'puzzle-3x3': {'env': 'puzzle-3x3-play-singletask-v0'},
            'pointmaze': {'env': 'pointmaze-medium-navigate-singletask-v0'},
        },
        'methods': {
            'FQL': {'agent': 'fql', 'alpha': 300.0},
            'IQL': {'agent': 'iql', 'alpha': 1.0},
            'ReBRAC': {'agent': 'rebrac', 'alpha_actor': 0.1, 'alpha_critic': 0.0},
            'IFQL': {'agent': 'ifql'},
            'BC': {'agent': 'bc'},
            'QC-FQL': {'agent': 'fql', 'horizon': 5, 'alpha': 100.0},
        },
        'tuned': {
            'cube-single': {'ReBRAC': {'alpha_actor': 1.0}},
            'cube-double': {'IQL': {'alpha': 0.3}},
            'scene': {'IQL': {'alpha': 10.0}, 'ReBRAC': {'alpha_critic': 0.01}},
            'puzzle-3x3': {
                'FQL': {'alpha': 1000.0},
                'IQL': {'alpha': 10.0},
                'ReBRAC': {'alpha_actor': 0.3, 'alpha_critic': 0.01},
            },
        },
        'published': {
            'cube-single': {
                'FQL': (0.97, 0.02, *QUOTED),
                'IQL': (0.85, 0.08, *QUOTED),
                'IFQL': (0.73, 0.03, *QUOTED),
                'ReBRAC': (0.91, 0.02, *MEMORY),
                'BC': (0.05, 0.01, *MEMORY),
            },
            'cube-double': {
                'FQL': (0.36, 0.06, *QUOTED),
                'IQL': (0.01, 0.01, *QUOTED),
                'IFQL': (0.09, 0.05, *QUOTED),
                'ReBRAC': (0.12, 0.01, *MEMORY),
                'BC': (0.02, 0.01, *MEMORY),
            },
            'scene': {
                'FQL': (0.76, 0.09, *QUOTED),
                'IQL': (0.12, 0.03, *QUOTED),
                'IFQL': (0.0, 0.0, *QUOTED),
                'ReBRAC': (0.41, 0.03, *MEMORY),
                'BC': (0.05, 0.01, *MEMORY),
            },
            'puzzle-3x3': {
                'FQL': (0.16, 0.05, *QUOTED),
                'IQL': (0.02, 0.01, *QUOTED),
                'IFQL': (0.0, 0.0, *QUOTED),
                'ReBRAC': (0.21, 0.01, *MEMORY),
                'BC': (0.02, 0.0, *MEMORY),
            },
        },
    }
