"""The sweep for two CPU cores: two small environments of our own, SAC of 64 x 64.

    make sweep-utd                        (PROFILE=laptop is the default)

Stage one: UTD 1/2, 2, 8 x batch 32, 64, 128 x learning rate 3e-4, 1e-3, 3e-3, three seeds. Stage two: UTD 1/2 to 8 with
the fitted batch size and learning rate, eight other seeds. The paper's numbers are for other environments and networks
of 0.15M to 5M parameters: what carries over is the shape of the laws, not their coefficients.
"""


def get_config() -> dict:
    return {
        'name': 'laptop',
        'common': {
            'agent': 'sac',
            'hidden_dims': (64, 64),
            'warmup': 400,  # steps; the same in all cells, and small beside D_J
            'log_interval': 200,  # steps, one episode
            'eval_interval': 0,  # at the end
        },
        # Steps after which all ratios have passed the highest threshold.
        'environments': {
            'pendulum': {'steps': 8_400},
            'point_mass': {'steps': 8_400},
        },
        'grid': {
            'utd': (0.5, 2.0, 8.0),
            'batch_size': (32, 64, 128),
            'learning_rate': (3e-4, 1e-3, 3e-3),
            'seeds': (0, 1, 2),
        },
        'fitted': {
            'utd': (0.5, 1.0, 2.0, 4.0, 8.0),
            'seeds': tuple(range(100, 108)),  # not those that chose the hyperparameters
        },
        # Levels J of the return, of 1000: as in the paper, denser near the top.
        'thresholds': {'lowest': 200.0, 'highest': 600.0, 'count': 10},
        # What an environment step costs beside an update, in FLOPs: measured once, see docs/utd.md.
        'step_cost': 1e6,
    }
