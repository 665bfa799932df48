"""The sweep on four tasks of MuJoCo Playground, all of it on one GPU or TPU chip; not yet run.

    pip install -e '.[playground]'; make sweep-utd PROFILE=playground

BRO as published. The paper's grid for the dm_control suite, as two grids with one middle instead of their product: UTD
1, 2, 4, 8; batch 32 to 512 at learning rate 6e-4, and 1.5e-4 to 1.2e-3 at batch 128. Stage two: UTD 1/4 to 8. Four of
its seven tasks, and five seeds instead of 8 to 10: 640 runs of a million steps. All but the smallest part of that is
days of a chip, which ENVS and SIGMAS choose from.
"""


def get_config() -> dict:
    return {
        'name': 'playground',
        'common': {
            'agent': 'bro',
            'steps': 1_000_000,
            'warmup': 2_500,
            'log_interval': 2_000,  # steps: D_J is known to this, and should be 50 times as long or longer
            'eval_interval': 0,  # at the end
            'save_interval': 100_000,
        },
        'environments': {
            'playground:CartpoleSwingup': {},
            'playground:CheetahRun': {},
            'playground:FingerSpin': {},
            'playground:WalkerWalk': {},
        },
        'grid': {
            'utd': (1.0, 2.0, 4.0, 8.0),
            'batch_size': (32, 64, 128, 256, 512),
            'learning_rate': (1.5e-4, 3e-4, 6e-4, 1.2e-3),
            'crossed': False,
            'seeds': tuple(range(5)),
        },
        'fitted': {
            'utd': (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
            'seeds': tuple(range(100, 105)),  # not those that chose the hyperparameters
        },
        # Levels J of the return, of 1000: the paper's.
        'thresholds': {'lowest': 200.0, 'highest': 800.0, 'count': 10},
        # What an environment step costs beside an update, in FLOPs: the paper's figure, for simulation on the host.
        'step_cost': 1e10,
    }
