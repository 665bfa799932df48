"""DSearch beside best-of-N, SMC, FK, SVDD, CoDe and nested importance sampling, at equal denoiser calls.

    make reproduce-dsearch                                          the exact laboratory: minutes, no network
    make reproduce-dsearch ARGS='--domain=dna --task=promoters'     75 bp promoters (python -m diffusion_jax.fetch dna)

The papers' tables could not be read (see docs/diffusion.md): there is no published number to put beside.
"""

from diffusion_jax.compare import METHODS


def get_config() -> dict:
    others = ('best of N', 'SMC', 'FK', 'SVDD', 'CoDe', 'nested IS', 'DSearch')
    return {
        'methods': {name: METHODS[name] for name in others}
        | {
            'DSearch, scheduled': ('dsearch', {'oversample': 4, 'search': 'exponential'}),
            'DSearch-R': ('dsearch', {'oversample': 1, 'group': 16, 'replace': 0.0625, 'temperature': 0.1}),
        },
    }
