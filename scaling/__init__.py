"""Papers on scaling: value-based RL over updates and data (`utd`)."""
