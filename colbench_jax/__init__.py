"""ColBench: collaborative programming tasks, the humans and agents who play them, and the grader."""
