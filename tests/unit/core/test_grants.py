"""The privileges of the services' database roles."""

from __future__ import annotations

import pytest

from headrace_core.store.grants import FUNCTIONS, PRIVILEGES, Client, check_role, grant_script
from headrace_core.store.schema import VERSION_TABLE
from headrace_core.store.sql.tables import metadata

# The columns with secrets, and hashes of secrets. Only gateways check credentials.
SECRETS = {
    ("installation", "secret"),
    ("api_keys", "secret_hash"),
    ("signing_keys", "seed"),
    ("users", "password_hash"),
    ("sessions", "token_hash"),
    ("sessions", "previous_hash"),
}

# The hash of an event of the audit log.
NO_SECRETS = {("audit_chains", "start_hash")}


def test_every_table_has_declared_privileges() -> None:
    """Add the table to PRIVILEGES in store/grants.py with the least privileges of each service."""
    tables = {table.name for table in metadata.sorted_tables}
    assert set(PRIVILEGES) == tables | {VERSION_TABLE}


def test_every_column_of_a_privilege_exists() -> None:
    for table, clients in PRIVILEGES.items():
        for privilege in [one for group in clients.values() for one in group]:
            columns = metadata.tables[table].columns if privilege.columns else {}
            assert set(privilege.columns) <= set(columns.keys()), table


def readers(table: str, column: str) -> set[Client]:
    return {
        client
        for client, privileges in PRIVILEGES[table].items()
        for verb, columns in privileges
        if verb == "SELECT" and (not columns or column in columns)
    }


@pytest.mark.parametrize(("table", "column"), sorted(SECRETS))
def test_only_gateways_read_secrets(table: str, column: str) -> None:
    assert readers(table, column) == {Client.GATEWAY}


def test_columns_with_secrets_are_listed() -> None:
    """Add the column to SECRETS if it holds a secret; otherwise choose another name."""
    suspicious = {
        (table.name, column.name)
        for table in metadata.sorted_tables
        for column in table.columns
        if any(word in column.name for word in ("secret", "_hash", "seed", "private"))
    }
    assert suspicious - NO_SECRETS == SECRETS


def test_scheduler_reads_no_payload() -> None:
    for column in ("payload", "result", "stack_trace"):
        assert readers("jobs", column) == {Client.GATEWAY, Client.WORKER, Client.OPS}
    assert readers("job_events", "output") == {Client.GATEWAY, Client.WORKER, Client.OPS}


def test_handler_has_functions_and_no_tables() -> None:
    assert not [table for table, clients in PRIVILEGES.items() if Client.HANDLER in clients]
    functions = [name for name, callers in FUNCTIONS.items() if Client.HANDLER in callers]
    assert functions == ["check_fence(uuid, integer)", "complete(uuid, integer, json)"]


def test_ops_role_can_only_read() -> None:
    for table, clients in PRIVILEGES.items():
        assert {one.verb for one in clients.get(Client.OPS, ())} <= {"SELECT"}, table


@pytest.mark.parametrize("name", ["", "a b", 'a"b', "a'b", "pg_monitor", "1a", "a" * 64])
def test_unsafe_role_name_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid role name"):
        check_role(name)


def test_script_names_schema_and_roles() -> None:
    script = grant_script({Client.GATEWAY: ("web",), Client.HANDLER: ("web", "app")}, schema="jobs")
    assert 'REVOKE ALL ON ALL TABLES IN SCHEMA jobs FROM "web", "app";' in script
    assert 'GRANT EXECUTE ON FUNCTION jobs.complete(uuid, integer, json) TO "app";' in script
    assert "headrace" not in script.replace("headrace_version", "")
