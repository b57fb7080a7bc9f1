"""Jobs: one module for each transition and each query."""
