"""The only package with SQL, grouped by aggregate.

- `jobs/`: the transitions of jobs and their queries. `sql/transition.py` builds every transition.
- `event_log`, `subscriptions`: the events of all jobs in one order, and the readers' places in it.
- `workers`, `leadership`: the leases of workers and of the leading scheduler.
- `upkeep/`, `migrate`, `schema`, `migrations/`: checks, repairs and changes of the whole database.
- `sql/`: connections, statements, tables and the conversion of rows.

Functions take an open connection. The caller commits or rolls back.
"""
