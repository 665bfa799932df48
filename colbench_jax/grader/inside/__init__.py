"""Files of the process that answers run in; they import the standard library alone."""
