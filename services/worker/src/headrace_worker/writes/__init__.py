"""Group writes: the ends and the reports of attempts."""
