"""Process, loops, tasks, logs, metrics and settings, shared by the services."""
