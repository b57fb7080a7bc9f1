"""The columns of a user except the password, for statements about users and sessions."""

from __future__ import annotations

from typing import Final

from headrace_core.domain.access import Role, parse_scope
from headrace_core.domain.user import User
from headrace_core.store.sql.connection import Row

# For statements in which `u` is the table `users`.
USER_COLUMNS: Final = (
    "u.name, u.tenant, u.role, u.scope, u.disabled, u.created_by, u.create_time, "
    "u.last_login_time, u.password_time"
)


def to_user(row: Row) -> User:
    """Return the user of a row with the columns `USER_COLUMNS`."""
    return User(
        name=row.name,
        tenant=row.tenant,
        role=Role(row.role),
        scope=parse_scope(row.scope),
        disabled=row.disabled,
        created_by=row.created_by,
        create_time=row.create_time,
        last_login_time=row.last_login_time,
        password_time=row.password_time,
    )
