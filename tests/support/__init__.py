"""Shared parts of the tests: real servers, fresh databases and settings."""
