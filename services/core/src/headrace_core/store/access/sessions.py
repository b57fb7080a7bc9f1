"""The sessions of users. Only hashes of refresh tokens are stored."""

from __future__ import annotations

import hmac
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import text

from headrace_core.domain.access import PrincipalKind
from headrace_core.domain.user import Session, User
from headrace_core.store.access.changes import record_change
from headrace_core.store.access.user_rows import USER_COLUMNS, to_user
from headrace_core.store.sql.connection import Connection, Row

# The maximum number of sessions of a user, ended ones included. A login removes the oldest ones.
MAX_SESSIONS: Final = 100
# A replaced refresh token stays valid for this long, so a client can repeat a call whose response
# was lost.
REPEAT: Final = timedelta(seconds=30)


class ReusedToken(NamedTuple):
    """A refresh token that was replaced earlier, so it may be stolen. Its session has ended."""

    session: Session


async def start_session(
    conn: Connection,
    user: User,
    *,
    session_id: UUID,
    token_hash: bytes,
    password_hash: str,
    address: str,
    lifetime: timedelta,
) -> Session | None:
    """Start a session after a login, in a transaction.

    Args:
        conn: the transaction.
        user: the user who logs in.
        session_id: the id of the session.
        token_hash: the hash of its first refresh token.
        password_hash: the hash that was verified.
        address: the address of the caller.
        lifetime: the time after which the session ends.

    Returns:
        None if the user was disabled or deleted or has another password since the verification.
    """
    key = {"tenant": user.tenant, "username": user.name}
    row = (
        await conn.execute(
            _START,
            {
                **key,
                "id": session_id,
                "token_hash": token_hash,
                "password_hash": password_hash,
                "address": address,
                "lifetime": lifetime,
            },
        )
    ).one_or_none()
    if row is None:
        return None
    removed = await conn.execute(_REMOVE_OLDEST, {**key, "kept": MAX_SESSIONS})
    for old in removed:
        if old.is_live:
            await _record(conn, user.tenant, old.id)
    return _to_session(row)


async def refresh_session(
    conn: Connection, *, session_id: UUID, token_hash: bytes, next_hash: bytes
) -> Session | ReusedToken | None:
    """Replace the refresh token of a session, in a transaction.

    For the time `REPEAT`, the previous token returns the same result. Any other token ends the
    session.

    Args:
        conn: the transaction.
        session_id: the session.
        token_hash: the hash of an authentic refresh token of this session.
        next_hash: the hash of the token that replaces it.

    Returns:
        None if the session is unknown or has ended, or the user is disabled.
    """
    row = (await conn.execute(_LOCK, {"id": session_id})).one_or_none()
    if row is None or not row.is_live:
        return None
    if hmac.compare_digest(row.token_hash, token_hash):
        await conn.execute(_REPLACE_TOKEN, {"id": session_id, "next_hash": next_hash})
        return _to_session(row)
    if row.is_repeatable and hmac.compare_digest(row.previous_hash, token_hash):
        return _to_session(row)
    await end_session(conn, session_id=session_id)
    return ReusedToken(_to_session(row))


async def end_session(conn: Connection, *, session_id: UUID) -> Session | None:
    """End a session, in a transaction; return None if it had already ended."""
    row = (await conn.execute(_END, {"id": session_id})).one_or_none()
    if row is None:
        return None
    session = _to_session(row)
    await _record(conn, session.user.tenant, session_id)
    return session


async def end_sessions(conn: Connection, *, tenant: str, username: str, kept: str = "") -> None:
    """End the sessions of a user, in a transaction. The caller records the change of the user.

    Args:
        conn: the transaction.
        tenant: the tenant.
        username: the name of the user.
        kept: the id of the session to keep; empty for none.
    """
    await conn.execute(_END_ALL, {"tenant": tenant, "username": username, "kept": kept})


async def _record(conn: Connection, tenant: str, session_id: UUID) -> None:
    await record_change(conn, tenant=tenant, kind=PrincipalKind.USER, subject=str(session_id))


def _to_session(row: Row) -> Session:
    return Session(id=row.id, user=to_user(row), expire_time=row.expire_time)


_IS_LIVE = "s.end_time IS NULL AND s.expire_time > clock_timestamp()"
_COLUMNS = f"{USER_COLUMNS}, s.id, s.expire_time, ({_IS_LIVE} AND NOT u.disabled) AS is_live"

_START = text(f"""
    WITH u AS (
        UPDATE users SET last_login_time = clock_timestamp()
        WHERE tenant = :tenant AND name = :username AND password_hash = :password_hash
            AND NOT disabled
        RETURNING *
    ), s AS (
        INSERT INTO sessions (id, tenant, username, token_hash, address, expire_time)
        SELECT :id, tenant, name, :token_hash, :address,
            clock_timestamp() + CAST(:lifetime AS interval)
        FROM u
        RETURNING *
    )
    SELECT {USER_COLUMNS}, s.id, s.expire_time FROM u, s
""")

_REMOVE_OLDEST = text(f"""
    DELETE FROM sessions s
    WHERE s.id IN (
        SELECT id FROM sessions WHERE tenant = :tenant AND username = :username
        ORDER BY create_time DESC OFFSET :kept
    ) OR (s.tenant = :tenant AND s.username = :username AND s.expire_time < clock_timestamp())
    RETURNING s.id, {_IS_LIVE} AS is_live
""")

_LOCK = text(f"""
    SELECT {_COLUMNS}, s.token_hash, s.previous_hash,
        coalesce(s.replace_time > clock_timestamp() - interval '{REPEAT.seconds} s', false)
            AS is_repeatable
    FROM sessions s JOIN users u ON u.tenant = s.tenant AND u.name = s.username
    WHERE s.id = :id FOR UPDATE OF s
""")

_REPLACE_TOKEN = text("""
    UPDATE sessions
    SET token_hash = :next_hash, previous_hash = token_hash, replace_time = clock_timestamp()
    WHERE id = :id
""")

_END = text(f"""
    UPDATE sessions s SET end_time = clock_timestamp()
    FROM users u
    WHERE s.id = :id AND u.tenant = s.tenant AND u.name = s.username AND {_IS_LIVE}
    RETURNING {USER_COLUMNS}, s.id, s.expire_time
""")

_END_ALL = text(f"""
    UPDATE sessions s SET end_time = clock_timestamp()
    WHERE s.tenant = :tenant AND s.username = :username AND CAST(s.id AS text) <> :kept
        AND {_IS_LIVE}
""")
