"""RERD beside the search that it iterates, and a genetic algorithm, at equal denoiser calls.

    make reproduce-rerd                                             the exact laboratory: minutes, no network
    make reproduce-rerd ARGS='--domain=dna --task=promoters'        75 bp promoters (python -m diffusion_jax.fetch dna)

`select` resamples the designs of a group by their rewards after each iteration, as the release does; `keep` drops a
design that became worse. The paper's tables could not be read (see docs/diffusion.md).
"""

from diffusion_jax.compare import METHODS


def get_config() -> dict:
    return {
        'methods': {name: METHODS[name] for name in ('best of N', 'SVDD', 'RERD', 'genetic')}
        | {
            'RERD, keep': ('rerd', {'keep': True}),
            'RERD, select': ('rerd', {'group': 16, 'temperature': 0.2}),
        },
    }
