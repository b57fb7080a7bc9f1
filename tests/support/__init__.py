"""Shared helpers of all tests: real servers, fresh databases, settings."""
