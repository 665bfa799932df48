"""Value-based RL that scales predictably (arXiv 2502.04327, 2508.14881): algorithms, sweep, laws."""
