"""Flow Q-learning and its field (arXiv 2502.02538)."""
