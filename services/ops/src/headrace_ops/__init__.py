"""The operator commands `headrace verify` and `headrace doctor`."""
