"""The error of an invalid command line or configuration."""


class UsageError(Exception):
    """The command line or the configuration is not valid."""
