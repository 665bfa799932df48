"""Reward search in pre-trained diffusion models: DSearch (arXiv 2503.02039), RERD (arXiv 2502.14944), their baselines."""
