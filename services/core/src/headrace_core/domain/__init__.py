"""Job values and rules. This package imports only the standard library."""
