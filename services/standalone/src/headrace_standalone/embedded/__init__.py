"""Private servers out of wheels: PostgreSQL and Valkey, with their data under one folder."""
