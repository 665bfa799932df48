"""The comparison at the size of `make demo`: 20,000 updates of 256, two layers of 256, 100,000 transitions, 3 seeds.

    python -m fql_jax.reproduce --config=configs/reproduce_fql/wide.py

Here the paper's order can be told apart by its intervals on cube-single, which `cpu.py`'s networks of 128 leave open.
Paper: the dashes in the picture; FQL's and IQL's are of this task and quoted by a third party, the others' are means
over the five tasks from memory, unverified. Expected here: see results/fql_reproduce_wide.json.
"""

QUOTED = ('paper', 'quoted by a third party, this task, 8 seeds')
FIVE = ('paper', 'from memory, unverified, five tasks, 8 seeds')


def get_config() -> dict:
    return {
        'name': 'wide',
        'title': 'Offline agents on OGBench, small, twice as wide',
        'scale': '20,000 updates of 256, 256x2, 100,000 transitions collected here (noisy)',
        'note': (
            'Success at the last update, all seeds together, with 95 % Wilson intervals over episodes. Data, networks '
            "and runs are far smaller than the paper's: its figures are for 1M play transitions and 1M updates. FQL's "
            "and IQL's are of this task, the others' are means over five tasks."
        ),
        'out': 'results/fql_reproduce_wide.json',
        'common': {
            'seeds': 3,
            'steps': 20_000,
            'batch_size': 256,
            'hidden_dims': (256, 256),
            'learning_rate': 1e-3,
            'data_kind': 'noisy',
            'data_episodes': 100,
            'data_length': 1000,
            'log_interval': 1_000,
            'eval_interval': 0,  # at the end
            'eval_episodes': 50,  # of each seed
            'save_interval': 10_000,
            'video': False,
        },
        'environments': {
            'cube-single': {'env': 'cube-single-singletask-task2-v0'},
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
        'tuned': {},
        'published': {
            'cube-single': {
                'FQL': (0.97, 0.02, *QUOTED),
                'IQL': (0.85, 0.08, *QUOTED),
                'ReBRAC': (0.91, 0.02, *FIVE),
                'IFQL': (0.79, 0.02, *FIVE),
                'BC': (0.05, 0.01, *FIVE),
            },
        },
    }
