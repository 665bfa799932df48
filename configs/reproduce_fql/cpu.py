"""The comparison at a size for two CPU cores: 20,000 updates of 128, two layers of 128, 100,000 transitions, 3 seeds.

    make reproduce-fql

Paper: the dashes in the picture. FQL's are of the task that is run here, the others' are means over the five tasks; of
these, cube-single's FQL and IQL are quoted by a third party and the rest is from memory, unverified. Expected here: see
results/fql_reproduce.json. Hyperparameters were chosen with seed 0 and 10 to 20 episodes each; docs/fql.md says how.
"""

QUOTED = ('paper', 'quoted by a third party, this task, 8 seeds')
THIS = ('paper', 'from memory, unverified, this task, 8 seeds')
FIVE = ('paper', 'from memory, unverified, five tasks, 8 seeds')


def get_config() -> dict:
    return {
        'name': 'cpu',
        'title': 'Offline agents on OGBench, small',
        'scale': '20,000 updates of 128, 128x2, 100,000 transitions collected here (noisy; pointmaze: navigate)',
        'note': (
            'Success at the last update, all seeds together, with 95 % Wilson intervals over episodes. Data, networks '
            "and runs are far smaller than the paper's: its figures are for 1M play transitions and 1M updates. FQL's "
            "are of the same task, the others' are means over five tasks (cube-single: FQL's and IQL's of this task)."
        ),
        'out': 'results/fql_reproduce.json',
        'common': {
            'seeds': 3,
            'steps': 20_000,
            'batch_size': 128,
            'hidden_dims': (128, 128),
            'learning_rate': 1e-3,
            'data_kind': 'noisy',
            'data_episodes': 100,
            'data_length': 1000,
            'log_interval': 1_000,
            'eval_interval': 0,  # at the end
            'eval_episodes': 20,  # of each seed
            'save_interval': 10_000,
            'video': False,
        },
        'environments': {
            'cube-single': {'env': 'cube-single-singletask-task2-v0'},
            'puzzle-3x3': {'env': 'puzzle-3x3-singletask-task1-v0'},
            # Where most episodes take all of their 750 or 500 steps, fewer of them.
            'scene': {'env': 'scene-singletask-task1-v0', 'eval_episodes': 10},
            'pointmaze': {'env': 'pointmaze-medium-singletask-task1-v0', 'data_kind': 'navigate'},
            'cube-double': {'env': 'cube-double-singletask-task1-v0', 'eval_episodes': 10},
        },
        'methods': {
            'FQL': {'agent': 'fql', 'alpha': 30.0, 'discount': 0.98, 'tau': 0.01, 'flow_steps': 5},
            'IQL': {'agent': 'iql', 'alpha': 10.0, 'discount': 0.98, 'tau': 0.01},
            'ReBRAC': {
                'agent': 'rebrac',
                'alpha_actor': 0.03,
                'alpha_critic': 0.0,
                'discount': 0.98,
                'tau': 0.01,
            },
            'IFQL': {'agent': 'ifql', 'discount': 0.98, 'tau': 0.01, 'flow_steps': 5},
            'BC': {'agent': 'bc'},
            'QC-FQL': {
                'agent': 'fql',
                'horizon': 5,
                'alpha': 100.0,
                'discount': 0.98,
                'tau': 0.01,
                'flow_steps': 5,
            },
        },
        'tuned': {
            'cube-single': {'FQL': {'alpha': 10.0}},
            'puzzle-3x3': {'FQL': {'alpha': 10.0}},
        },
        'published': {
            'cube-single': {
                'FQL': (0.97, 0.02, *QUOTED),
                'IQL': (0.85, 0.08, *QUOTED),
                'ReBRAC': (0.91, 0.02, *FIVE),
                'IFQL': (0.79, 0.02, *FIVE),
                'BC': (0.05, 0.01, *FIVE),
            },
            'puzzle-3x3': {
                'FQL': (0.90, 0.04, *THIS),
                'IQL': (0.09, 0.01, *FIVE),
                'ReBRAC': (0.21, 0.01, *FIVE),
                'IFQL': (0.19, 0.01, *FIVE),
                'BC': (0.02, 0.0, *FIVE),
            },
            'scene': {
                'FQL': (1.0, 0.0, *THIS),
                'IQL': (0.28, 0.01, *FIVE),
                'ReBRAC': (0.41, 0.03, *FIVE),
                'IFQL': (0.30, 0.03, *FIVE),
                'BC': (0.05, 0.01, *FIVE),
            },
            'cube-double': {
                'FQL': (0.61, 0.09, *THIS),
                'IQL': (0.07, 0.01, *FIVE),
                'ReBRAC': (0.12, 0.01, *FIVE),
                'IFQL': (0.14, 0.03, *FIVE),
                'BC': (0.02, 0.01, *FIVE),
            },
        },
    }
