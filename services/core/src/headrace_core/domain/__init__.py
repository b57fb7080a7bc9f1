"""The rules of jobs, in the standard library alone."""
