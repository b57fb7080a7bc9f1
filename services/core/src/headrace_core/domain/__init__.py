"""The values and rules of jobs. They import the standard library alone."""
