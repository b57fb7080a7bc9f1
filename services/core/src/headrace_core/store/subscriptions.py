"""Named subscriptions: the consumer that receives the events, and the acknowledged place.

A watch can acquire a subscription that has no watch or whose watch's lease has lapsed. A newer
watch of the same consumer can always acquire it. The `epoch` increases when the consumer
changes, so late acknowledgements of an earlier consumer are rejected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import msgspec
from sqlalchemy import text

from headrace_core.domain.errors import (
    CursorInvalid,
    SubscriptionConflict,
    SubscriptionNotFound,
    SubscriptionTaken,
    TooManySubscriptions,
)
from headrace_core.domain.job import JsonText
from headrace_core.domain.query import JobFilter
from headrace_core.domain.subscription import (
    AcquiredSubscription,
    Holder,
    Subscription,
    SubscriptionId,
    SubscriptionWatch,
    WatchId,
)
from headrace_core.store.event_log import Place, read_start
from headrace_core.store.sql.connection import Connection, Row
from headrace_core.store.sql.documents import FieldReader, column, to_time
from headrace_core.store.sql.times import readable_time_sql
from headrace_core.store.sql.unreadable import UNREADABLE_ROWS

# (tenant, name).
SubscriptionKey = tuple[str, str]

# The class of the advisory locks that serialize the creations of a tenant's subscriptions. Its key
# is made from the bytes of "subs".
_CREATION_LOCKS = int.from_bytes(b"subs") >> 1


class StartsTooEarly(Exception):
    """Events after the requested start of a subscription may have been pruned.

    No event after the place `start` was pruned.
    """

    def __init__(self, start: Place) -> None:
        super().__init__(start)
        self.start = start


async def create_subscription(
    conn: Connection,
    *,
    tenant: str,
    name: str,
    job_filter: JobFilter,
    after: Place | None,
    end: Place,
    maximum: int,
) -> tuple[Subscription, bool]:
    """Create a subscription if it does not exist.

    Args:
        conn: a connection with a separate transaction.
        tenant: the tenant of the subscription.
        name: the name, unique within the tenant.
        job_filter: selects the jobs whose events it receives.
        after: the place after which the subscription starts; None to start now.
        end: the place of the last settled event.
        maximum: the maximum number of subscriptions of a tenant.

    Returns:
        The subscription, and whether it is new.

    Raises:
        SubscriptionConflict: a subscription with this name has a different filter.
        TooManySubscriptions: the tenant has reached the maximum.
        StartsTooEarly: events after `after` were pruned.
    """
    key = {"tenant": tenant, "name": name}
    stored_filter = write_filter(job_filter)
    # The second of two concurrent creations waits, and then reads the result of the first one.
    await conn.execute(_LOCK_CREATION, {"lock": _CREATION_LOCKS, "tenant": tenant})
    same = await conn.scalar(_HAS_SAME_FILTER, {**key, "filter": stored_filter})
    if same is False:
        raise SubscriptionConflict(name)
    if same is None:
        count = await conn.scalar(_COUNT, {"tenant": tenant})
        if count >= maximum:
            raise TooManySubscriptions(maximum, actual=count + 1)
        start = await read_start(conn, tenant=tenant)
        if after is not None and after < start:
            raise StartsTooEarly(start)
        xid, position = after or max(end, start)
        await conn.execute(
            _CREATE, {**key, "filter": stored_filter, "xid": str(xid), "position": position}
        )
    return await get_subscription(conn, tenant=tenant, name=name), same is None


async def get_subscription(conn: Connection, *, tenant: str, name: str) -> Subscription:
    """Return a subscription.

    Raises:
        SubscriptionNotFound: the tenant has no subscription with this name.
    """
    row = (await conn.execute(_GET, {"tenant": tenant, "name": name})).one_or_none()
    if row is None:
        raise SubscriptionNotFound(name)
    return _to_subscription(row)


async def list_subscriptions(
    conn: Connection, *, tenant: str, after: str, limit: int
) -> list[Subscription]:
    """Return up to `limit` subscriptions in the order of their names, after the name `after`."""
    rows = await conn.execute(_LIST, {"tenant": tenant, "after": after, "limit": limit})
    return [_to_subscription(row) for row in rows]


async def delete_subscription(conn: Connection, *, tenant: str, name: str) -> None:
    """Delete a subscription.

    Raises:
        SubscriptionNotFound: the tenant has no subscription with this name.
    """
    if not (await conn.execute(_DELETE, {"tenant": tenant, "name": name})).rowcount:
        raise SubscriptionNotFound(name)


async def acquire_subscription(
    conn: Connection,
    watch: SubscriptionWatch,
    *,
    consumer: str,
    lease: timedelta,
    takes_over: bool = True,
) -> AcquiredSubscription | None:
    """Acquire a subscription for a watch, if it is free.

    Args:
        conn: a connection, with or without a transaction.
        watch: the watch and the subscription.
        consumer: the consumer of the watch.
        lease: the duration of the lease.
        takes_over: whether to take over from any watch of the same consumer; if false, only from an
            older watch.

    Returns:
        The filter, epoch and acknowledged place of the subscription; None if another watch has
        acquired it.

    Raises:
        SubscriptionNotFound: the tenant has no subscription with this name.
    """
    key = {"tenant": watch.tenant, "name": watch.name}
    acquired = await conn.execute(
        _ACQUIRE,
        {
            **key,
            "watch_id": watch.watch_id,
            "consumer": consumer,
            "lease": lease,
            "takes_over": takes_over,
        },
    )
    row = acquired.one_or_none()
    if row is not None:
        return AcquiredSubscription(**row)
    if (await conn.execute(_EXISTS, key)).one_or_none() is None:
        raise SubscriptionNotFound(watch.name)
    return None


async def renew_watches(
    conn: Connection, watches: Sequence[SubscriptionWatch], *, lease: timedelta
) -> set[WatchId]:
    """Renew the leases of watches.

    A lapsed lease can be renewed until another watch acquires the subscription.

    Returns:
        The watches that still have their subscriptions.
    """
    renewed = await conn.execute(_RENEW, {**_columns(watches), "lease": lease})
    return {row.watch_id for row in renewed}


async def release_watches(conn: Connection, watches: Sequence[SubscriptionWatch]) -> int:
    """Release the subscriptions that these watches still have, and return their number.

    The epoch does not change, so the consumer can acknowledge events until another consumer
    acquires the subscription.
    """
    return (await conn.execute(_RELEASE, _columns(watches))).rowcount


async def read_holders(
    conn: Connection, keys: Collection[SubscriptionKey]
) -> Mapping[SubscriptionKey, Holder]:
    """Return the holders of subscriptions. Missing subscriptions are left out."""
    rows = await conn.execute(
        _HOLDERS, {"tenants": [key[0] for key in keys], "names": [key[1] for key in keys]}
    )
    return {
        (row.tenant, row.name): Holder(
            id=row.id, consumer=row.consumer, watch_id=row.watch_id, lease=row.lease
        )
        for row in rows
    }


async def acknowledge(
    conn: Connection,
    *,
    tenant: str,
    name: str,
    subscription_id: SubscriptionId,
    epoch: int,
    place: Place,
) -> bool:
    """Acknowledge all events up to a place.

    Args:
        conn: a connection, with or without a transaction.
        tenant: the tenant of the subscription.
        name: the subscription.
        subscription_id: the id of the subscription that received the event.
        epoch: the epoch in which the event was sent.
        place: the place of an event.

    Returns:
        False if the place was already acknowledged.

    Raises:
        SubscriptionNotFound: the tenant has no subscription with this name.
        CursorInvalid: the name now belongs to another subscription.
        SubscriptionTaken: another consumer has taken over since the event was sent.
    """
    key = {"tenant": tenant, "name": name}
    done = await conn.execute(
        _ACKNOWLEDGE,
        {
            **key,
            "id": subscription_id,
            "epoch": epoch,
            "xid": str(place[0]),
            "position": place[1],
        },
    )
    if done.rowcount:
        return True
    row = (await conn.execute(_EXISTS, key)).one_or_none()
    if row is None:
        raise SubscriptionNotFound(name)
    if row.id != subscription_id:
        raise CursorInvalid
    if row.epoch != epoch:
        raise SubscriptionTaken(name)
    return False


def _columns(watches: Sequence[SubscriptionWatch]) -> dict[str, object]:
    return {
        "tenants": column(watches, "tenant"),
        "names": column(watches, "name"),
        "watch_ids": column(watches, "watch_id"),
    }


def _to_subscription(row: Row) -> Subscription:
    fields, values = FieldReader(), dict(row)
    values["filter"] = fields.read("filter", read_filter, row.filter, None)
    for name in ("create_time", "ack_time"):
        values[name] = fields.read(name, to_time, values[name], None)
    if fields.unreadable:
        subject = f"subscription {row.name} of tenant {row.tenant}"
        UNREADABLE_ROWS.record(subject, fields.unreadable)
    if row.lag is not None:
        # The clock may have been set back.
        values["lag"] = max(row.lag, timedelta())
    return Subscription(**values, unreadable=fields.unreadable)


def write_filter(job_filter: JobFilter) -> JsonText:
    """Return the stored form of a filter, a JSON object; equal filters have equal forms."""
    fields = msgspec.to_builtins(job_filter, order="deterministic")
    # Empty fields are omitted, so a field that is added later does not change stored filters.
    return msgspec.json.encode({name: value for name, value in fields.items() if value}).decode()


def read_filter(text: JsonText) -> JobFilter:
    """Parse the result of `write_filter`.

    Raises:
        msgspec.MsgspecError: the stored filter is unreadable.
    """
    return msgspec.json.decode(text, type=JobFilter)


_PLACE = "(CAST(CAST(:xid AS text) AS xid8), CAST(:position AS bigint))"

_LOCK_CREATION = text("""
    SELECT pg_advisory_xact_lock(CAST(:lock AS integer), hashtext(CAST(:tenant AS text)))
""")

_HAS_SAME_FILTER = text("""
    SELECT filter = CAST(:filter AS jsonb) FROM subscriptions
    WHERE tenant = :tenant AND name = :name
""")

_COUNT = text("SELECT count(*) FROM subscriptions WHERE tenant = :tenant")

_CREATE = text("""
    INSERT INTO subscriptions (tenant, name, filter, xid, position)
    VALUES (
        :tenant, :name, CAST(:filter AS jsonb), CAST(CAST(:xid AS text) AS xid8), :position
    )
""")

# The oldest event after a place is the next one in the index.
_SUBSCRIPTION = f"""
    SELECT s.tenant, s.name, s.id, s.filter::text AS filter,
        CASE WHEN s.lease_expire_time > clock_timestamp() THEN s.consumer END AS consumer,
        s.epoch, s.xid::text::bigint AS xid, s.position,
        {readable_time_sql("s.create_time")} AS create_time,
        {readable_time_sql("s.ack_time")} AS ack_time,
        CASE WHEN isfinite(oldest.time) THEN clock_timestamp() - oldest.time END AS lag
    FROM subscriptions s
    LEFT JOIN LATERAL (
        SELECT e.time FROM job_events e
        WHERE (e.xid, e.position) > (s.xid, s.position)
        ORDER BY e.xid, e.position LIMIT 1
    ) oldest ON true
    WHERE s.tenant = :tenant
"""

_GET = text(f"{_SUBSCRIPTION} AND s.name = :name")

_LIST = text(f"{_SUBSCRIPTION} AND s.name > :after ORDER BY s.name LIMIT :limit")

_DELETE = text("DELETE FROM subscriptions WHERE tenant = :tenant AND name = :name")

_EXISTS = text("SELECT id, epoch FROM subscriptions WHERE tenant = :tenant AND name = :name")

# The consumer stays stored after its watch ends, so its next watch keeps the epoch.
_ACQUIRE = text("""
    UPDATE subscriptions
    SET epoch = CASE WHEN consumer = :consumer THEN epoch ELSE epoch + 1 END,
        consumer = :consumer, watch_id = :watch_id,
        lease_expire_time = clock_timestamp() + CAST(:lease AS interval)
    WHERE tenant = :tenant AND name = :name AND (
        watch_id IS NULL OR lease_expire_time <= clock_timestamp()
        -- The newer of two waiting watches of a consumer wins, in either order.
        OR (consumer = :consumer
            AND (CAST(:takes_over AS boolean) OR watch_id <= CAST(:watch_id AS uuid)))
    )
    RETURNING id, filter::text AS filter, epoch, xid::text::bigint AS xid, position
""")

_WATCHES = """
    unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:watch_ids AS uuid[]))
        AS w (tenant, name, watch_id)
    WHERE s.tenant = w.tenant AND s.name = w.name AND s.watch_id = w.watch_id
"""

_RENEW = text(f"""
    UPDATE subscriptions s
    SET lease_expire_time = clock_timestamp() + CAST(:lease AS interval)
    FROM {_WATCHES}
    RETURNING s.watch_id
""")

_RELEASE = text(f"""
    UPDATE subscriptions s SET watch_id = NULL, lease_expire_time = NULL FROM {_WATCHES}
""")

_HOLDERS = text("""
    SELECT s.tenant, s.name, s.id, s.consumer, s.watch_id,
        s.lease_expire_time - clock_timestamp() AS lease
    FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[])) AS k (tenant, name)
    JOIN subscriptions s ON s.tenant = k.tenant AND s.name = k.name
""")

_ACKNOWLEDGE = text(f"""
    UPDATE subscriptions
    SET xid = CAST(CAST(:xid AS text) AS xid8), position = :position,
        ack_time = clock_timestamp()
    WHERE tenant = :tenant AND name = :name AND id = :id AND epoch = :epoch
        AND (xid, position) < {_PLACE}
""")
