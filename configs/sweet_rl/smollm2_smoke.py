"""SmolLM2-135M through every stage with adapters and next to no data: does it run, on two cores?

    python -m colbench_jax rollout --agent=careless --count=4 --repeat=4 --turns=4 --out=runs/careless.jsonl
    python -m colbench_jax.sweet_rl evaluate --arms=sweet --best-of=1 --config=configs/sweet_rl/smollm2_smoke.py \
        --workdir=runs/sweet_rl_smoke

The trajectories are a scripted agent's, since a model of this size solves nothing; the figures mean nothing.
"""

ADAPTER = 8  # rank


def get_config() -> dict:
    trained = {}
    for name in ('sft', 'critic', 'policy', 'mt_dpo'):
        trained |= {f'{name}.lora_rank': ADAPTER, f'{name}.batch_size': 2, f'{name}.updates': 4}
    return trained | {
        'model': 'smollm2-135m',
        'documents': 0,  # it has read enough
        'grammar': 'full',
        'train_tasks': 3,
        'test_tasks': 2,
        'demonstrations': 1,
        'turns': 2,
        'max_tokens': 32,
        'row': 512,
        'batch': 6,
        'offline': 'runs/careless.jsonl',
        'states': 2,
        'candidates': 4,
        'turn_pairs': 2,
        'policy.batch_size': 1,
        'sft.learning_rate': 1e-3,
    }
