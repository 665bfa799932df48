"""SWEET-RL from SmolLM2-135M on tasks in plain English, for one GPU. Never run to its end here: there was no GPU.

    python -m colbench_jax.sweet_rl --config=configs/sweet_rl/smollm2.py --workdir=runs/sweet_rl_smollm2

All parameters are trained, their masters in float32: 2.2 GB with Adam's moments.
"""


def get_config() -> dict:
    return {
        'model': 'smollm2-135m',  # out of a package: 93 MB, once
        'documents': 0,  # it has read enough
        'grammar': 'full',  # sentences, not words
        'turns': 6,
        'max_tokens': 256,  # of a turn: the longest programs have about 200
        'row': 2048,  # tokens of a row of fine-tuning
        'batch': 256,  # prompts that are read together
        'train_tasks': 4000,
        'states': 4000,
        'candidates': 16,
        'sft.learning_rate': 1e-4,
        'sft.batch_size': 16,
        'sft.updates': 1000,
        'rft_updates': 500,
        'critic.learning_rate': 5e-6,
        'critic.batch_size': 32,
        'critic.micro': 8,  # pairs whose gradients are made at a time
        'value.learning_rate': 5e-6,
        'policy.learning_rate': 5e-6,
        'policy.micro': 1,  # trajectory at a time, with all candidates of its turns
        'mt_dpo.learning_rate': 5e-6,
        'mt_dpo.batch_size': 32,
        'mt_dpo.micro': 8,
    }
