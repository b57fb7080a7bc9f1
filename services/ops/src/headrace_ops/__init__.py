"""The operator's commands: `headrace verify` and `headrace doctor`."""
