"""Reward search in pre-trained diffusion models: DSearch (arXiv 2503.02039), RERD (arXiv 2502.14944), their baselines.

task(domain) and design(task, method=...) are the Python API; `python -m diffusion_jax.main` is the command.
"""


def __getattr__(name: str):
    if name in ('task', 'design', 'Found'):  # late: importing jax takes seconds, and --help should not
        from diffusion_jax import api

        return getattr(api, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
