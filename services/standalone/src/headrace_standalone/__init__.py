"""The whole of Headrace in one command, on an embedded PostgreSQL and Valkey."""
