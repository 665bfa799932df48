"""SAC on gymnasium's Pendulum-v1 for 20,000 steps, as Stable-Baselines3's zoo has it (learning rate 1e-3).

    python -m scaling.utd.main --config=configs/utd/runs/sac_pendulum.py --seeds=3

Published (huggingface.co/sb3/sac-Pendulum-v1, the zoo's agent, 10 episodes): -176.33 +- 101.55. Here: docs/utd.md.
"""


def get_config() -> dict:
    return {
        'agent': 'sac',
        'env': 'Pendulum-v1',
        'learning_rate': 1e-3,
        'target_entropy': 'full',  # -A, as there
        'steps': 20_000,
        'warmup': 200,
        'capacity': 20_000,
        'log_interval': 200,
        'eval_interval': 5_000,
        'eval_episodes': 20,
        'save_interval': 5_000,
    }
