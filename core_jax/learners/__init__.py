"""Standard algorithms that more than one paper uses."""
