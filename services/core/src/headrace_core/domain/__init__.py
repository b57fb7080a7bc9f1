"""The values and rules of jobs. They import only the standard library."""
