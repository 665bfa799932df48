"""RERD beside the search that it iterates, and a genetic algorithm, at equal denoiser calls.

    make reproduce-rerd                                             the exact laboratory: minutes, no network
    make reproduce-rerd ARGS='--domain=dna --task=promoters'        75 bp promoters (python -m diffusion_jax.fetch dna)

`select` resamples the designs of a group by their rewards after each iteration, as the release does, at its
temperature; `keep` drops a design that became worse. With selection one child a step, unguided, and a tenth of the
steps back were chosen by single runs on HNF1A sites in promoters at 400 calls, which were not kept.
The paper's tables could not be read (see docs/diffusion.md).
"""

from diffusion_jax.compare import METHODS


def get_config() -> dict:
    return {
        'methods': {
            name: METHODS[name] for name in ('best of N', 'SVDD', 'nested IS', 'RERD', 'RERD select', 'genetic')
        }
        | {
            'RERD 4 children': ('rerd', {'children': 4, 'back': 0.2}),
            'RERD keep': ('rerd', {'children': 1, 'back': 0.1, 'keep': True}),
            'RERD select and keep': ('rerd', METHODS['RERD select'][1] | {'keep': True}),
        },
    }
