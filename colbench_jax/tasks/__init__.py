"""Tasks of ColBench, and their files."""
