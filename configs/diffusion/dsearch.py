"""DSearch beside best-of-N, SMC, FK, SVDD, CoDe and nested importance sampling, at equal denoiser calls.

    make reproduce-dsearch                                          the exact laboratory: minutes, no network
    make reproduce-dsearch ARGS='--domain=dna --task=promoters'     75 bp promoters (python -m diffusion_jax.fetch dna)

`recommended` is DSearch-R as the release recommends it, a beam of 16 a step; DSearch-R without that word replaces a
quarter, chosen among 1/16 to 1/2 by single runs on HNF1A sites in promoters at 400 calls, which were not kept. The
papers' tables could not be read (see docs/diffusion.md): there is no published number to put beside.
"""

from diffusion_jax.compare import METHODS


def get_config() -> dict:
    others = ('best of N', 'SMC', 'FK', 'SVDD', 'CoDe', 'nested IS', 'DSearch', 'DSearch-R')
    return {
        'methods': {name: METHODS[name] for name in others}
        | {
            'DSearch-R recommended': ('dsearch', METHODS['DSearch-R'][1] | {'replace': 0.0625}),
            'DSearch scheduled': ('dsearch', {'oversample': 4, 'search': 'exponential'}),
            'DSearch, 4 completions': ('dsearch', {'oversample': 4, 'group': 16, 'samples': 4}),
            'SVDD learned': ('svdd', {'values': 'learned'}),
        },
    }
