"""What the tests of every kind stand on: real servers, fresh databases, settings."""
