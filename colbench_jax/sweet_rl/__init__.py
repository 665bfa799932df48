"""SWEET-RL (arXiv 2503.15478): credit for the turns of a dialogue, by a critic that knows what the person wants."""
