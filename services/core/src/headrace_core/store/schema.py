"""Creates Headrace's schema, and moves the tables of older versions into it."""

from __future__ import annotations

from typing import Final

import structlog
from sqlalchemy import Connection, text

from headrace_core.store.sql.tables import metadata

_log = structlog.get_logger()

# The version table. Another application in this database may use Alembic's default name. If a role
# has the same name as the schema, its search path begins with this schema.
VERSION_TABLE: Final = "headrace_version"

# Until revision 0005, the tables were in the first schema of the search path, with Alembic's
# default version table. The functions were in the schema `headrace`.
_OLD_REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005")
_OLD_VERSION_TABLE: Final = "alembic_version"
_OLD_FUNCTIONS: Final = "headrace"


class MigrationRejected(Exception):
    """The database cannot be migrated; the message names the object and the remedy."""


def prepare_schema(connection: Connection, schema: str) -> None:
    """Create the schema if it is missing, and move the tables of an older version into it.

    Args:
        connection: a connection in the transaction of the migrations. Its search path changes from
            the role's default to `schema`.
        schema: a name that needs no quotes.

    Raises:
        MigrationRejected: the schema contains tables of another application.
        sqlalchemy.exc.DBAPIError: a privilege is missing.
    """
    found = {"schema": schema}
    if not connection.scalar(_HAS_SCHEMA, found):
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    if connection.scalar(_QUALIFIED_IF_EXISTS, found | {"table": VERSION_TABLE}) is None:
        old = _find_old_schema(connection, schema)
        names = [table.name for table in metadata.sorted_tables]
        existing = connection.scalars(_EXISTING_TABLES, found | {"names": names}).all()
        if existing and old != schema:
            raise MigrationRejected(
                f'the schema "{schema}" already has a table "{existing[0]}" of another '
                "application; set HEADRACE_DATABASE_SCHEMA to another schema"
            )
        if old is not None:
            _move_tables(connection, old, schema)
    connection.execute(_SET_SEARCH_PATH, found)


def _find_old_schema(connection: Connection, schema: str) -> str | None:
    """Return the schema with the tables of an older version; None if it does not exist."""
    for place in dict.fromkeys((schema, *connection.scalars(_SEARCH_PATH_SCHEMAS).all())):
        if connection.scalar(_HAS_OLD_TABLES, {"schema": place}):
            version = connection.scalar(_QUALIFIED, {"schema": place, "table": _OLD_VERSION_TABLE})
            revisions = connection.scalars(text(f"SELECT version_num FROM {version}")).all()
            if len(revisions) == 1 and revisions[0] in _OLD_REVISIONS:
                return str(place)
    return None


def _move_tables(connection: Connection, old: str, schema: str) -> None:
    version = connection.scalar(_QUALIFIED, {"schema": old, "table": _OLD_VERSION_TABLE})
    connection.execute(
        text(f"ALTER TABLE {version} RENAME CONSTRAINT alembic_version_pkc TO {VERSION_TABLE}_pkc")
    )
    connection.execute(text(f"ALTER TABLE {version} RENAME TO {VERSION_TABLE}"))
    if old != schema:
        for table in (*(table.name for table in metadata.sorted_tables), VERSION_TABLE):
            place = connection.scalar(_QUALIFIED_IF_EXISTS, {"schema": old, "table": table})
            if place is not None:
                connection.execute(text(f"ALTER TABLE {place} SET SCHEMA {schema}"))
    if schema != _OLD_FUNCTIONS:
        for function in connection.scalars(_FUNCTIONS, {"schema": _OLD_FUNCTIONS}).all():
            connection.execute(text(f"ALTER FUNCTION {function} SET SCHEMA {schema}"))
    _log.warning("tables_moved", from_schema=old, to_schema=schema)


# CREATE SCHEMA IF NOT EXISTS needs the privilege to create a schema even if the schema exists.
_HAS_SCHEMA = text("SELECT to_regnamespace(:schema) IS NOT NULL")

_QUALIFIED = text("SELECT format('%I.%I', CAST(:schema AS text), CAST(:table AS text))")

# The qualified name of a table, or NULL.
_QUALIFIED_IF_EXISTS = text(
    "SELECT to_regclass(format('%I.%I', CAST(:schema AS text), CAST(:table AS text)))::text"
)

_EXISTING_TABLES = text("""
    SELECT relname FROM pg_class
    WHERE relnamespace = to_regnamespace(:schema) AND relname = ANY (CAST(:names AS text[]))
    ORDER BY relname
""")

_SEARCH_PATH_SCHEMAS = text("SELECT unnest(current_schemas(false))")

# Columns identify Headrace's tables, because another application may have the same revisions.
_HAS_OLD_TABLES = text(f"""
    SELECT count(*) = 4 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = to_regnamespace(quote_ident(:schema)) AND c.relkind = 'r'
        AND (
            c.relname = 'installation' AND a.attname IN ('secret', 'singleton')
            OR c.relname = 'job_events' AND a.attname = 'xid' AND a.atttypid = 'xid8'::regtype
            OR c.relname = '{_OLD_VERSION_TABLE}' AND a.attname = 'version_num'
        )
""")

_FUNCTIONS = text("""
    SELECT p.oid::regprocedure::text FROM pg_proc p
    WHERE p.pronamespace = to_regnamespace(:schema) AND p.proname IN ('check_fence', 'complete')
        AND pg_get_userbyid(p.proowner) = current_user
""")

_SET_SEARCH_PATH = text("SELECT set_config('search_path', CAST(:schema AS text), false)")
