"""Pre-trained models, as reverse processes that searches run: masked, order-agnostic, Gaussian, tables."""
