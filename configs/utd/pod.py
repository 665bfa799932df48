"""The sweep at the paper's scale for pods: seven tasks of MuJoCo Playground, a million steps, eight seeds; not yet run.

    pip install -e '.[playground]'; make sweep-utd PROFILE=pod DRY=1    the plan
    python -m scaling.utd.sweep plan --profile=pod                      and launchers for SLURM and TPU pods
    make tpu-check                                                      what its packs take of v5p:4x4x4 and v5e:16x16
    ... --seeds=4, then again without it                                on v5e, which does not hold the packs of eight

BRO as published, critics of width 512. The paper's grid for the dm_control suite is UTD 1, 2, 4, 8 x batch 32 to 512 x
learning rate 1.5e-4 to 1.2e-3, 8 to 10 seeds. Here batches are 64 to 1024, since the best ones that it found at UTD 1
lie near its upper end (its law: 442 on the mean of the tasks), and two grids with one middle stand for the product:
all batches at learning rate 6e-4, all rates at batch 256, which is 1,792 runs in place of 4,480. Stage two: UTD 1/4 to
8, as in the paper.

Five of the paper's seven tasks are here. Playground has no dog and no quadruped: HopperStand (balance on a foot) stands
in for dog-stand and FingerTurnHard for quadruped-walk; published BRO passes 900 on the latter within these steps, the
former is our choice without a figure. Its humanoid takes time steps twice as long as dm_control's.
"""


def get_config() -> dict:
    return {
        'name': 'pod',
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
            'playground:FingerTurnHard': {},
            'playground:HopperStand': {},
            'playground:HumanoidStand': {},
            'playground:WalkerWalk': {},
        },
        'grid': {
            'utd': (1.0, 2.0, 4.0, 8.0),
            'batch_size': (64, 128, 256, 512, 1024),
            'learning_rate': (1.5e-4, 3e-4, 6e-4, 1.2e-3),
            'crossed': False,
            'seeds': tuple(range(8)),
        },
        'fitted': {
            'utd': (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
            'seeds': tuple(range(100, 108)),  # not those that chose the hyperparameters
        },
        # Levels J of the return, of 1000: the paper's.
        'thresholds': {'lowest': 200.0, 'highest': 800.0, 'count': 10},
        # What an environment step costs beside an update, in FLOPs: the paper's figure, for simulation on the host.
        'step_cost': 1e10,
    }
