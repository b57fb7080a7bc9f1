"""Group writes of attempts: their ends and their reports."""
