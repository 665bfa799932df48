"""One agent a file: losses in the paper's order, then update, act, init, get_config."""
