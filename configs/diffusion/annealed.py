"""What annealed refinement, our own search, owes to each of its parts: one changed at a time.

    python -m diffusion_jax.compare --config=configs/diffusion/annealed.py --domain=dna --task=promoters

Beside all other methods: python -m diffusion_jax.compare. Its settings were chosen on HNF1A and HNF4A sites in
promoters (the population of 32 by two seeds at 100 and 400 calls on HNF1A) and on EGR2 in the laboratory, one or two
seeds each, which were not kept; none of these is reported.
"""


def get_config() -> dict:
    return {
        'methods': {
            'annealed (ours)': ('anneal', {}),
            'no population': ('anneal', {'group': 1}),  # a hill climber: nothing to resample, beta without end at once
            'population of 64': ('anneal', {'group': 64}),
            'always far': ('anneal', {'last': 0.2}),
            'always near': ('anneal', {'back': 0.0}),
            'takes what is better': ('anneal', {'accept': 'better'}),
            'takes every move': ('anneal', {'accept': 'always'}),
            'slower': ('anneal', {'turnover': 3.0}),
            'to the target': ('anneal', {'alpha': 1.0}),  # a sample of p exp(r) / Z
        },
    }
