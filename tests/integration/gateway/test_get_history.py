"""GetHistory."""

from __future__ import annotations

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text

from headrace.v1 import monitor_service_pb2 as ms
from headrace.v1.monitor_service_pb2_grpc import MonitorServiceStub
from headrace_core.store.sql.database import Database
from support.gateway import TIMEOUT, rpc_error

MINUTE = Duration(seconds=60)


@pytest.fixture
def monitor(channel: grpc.aio.Channel) -> MonitorServiceStub:
    return MonitorServiceStub(channel)


async def add_minute(database: Database, age: int, **fields: object) -> None:
    """Store a minute that began `age` minutes before the current one."""
    values = {"queue": "mail", "type": "test", "succeeded": 1, "waits": [], "runs": [], **fields}
    async with database.statement() as conn:
        await conn.execute(
            text("""
                INSERT INTO job_minutes (tenant, minute, queue, type, submitted, started, retried,
                    succeeded, failed, cancelled, waits, runs)
                VALUES ('default', date_trunc('minute', now()) - :age * interval '1 minute',
                    :queue, :type, 0, 0, 0, :succeeded, 0, 0, :waits, :runs)
            """),
            {"age": age, **values},
        )


async def test_history_has_a_point_for_each_minute_of_an_hour(
    monitor: MonitorServiceStub, database: Database
) -> None:
    # Bucket 40 ends at 1,024 ms, and bucket 48 at 4,096 ms.
    await add_minute(database, 3, succeeded=20, waits=[0] * 40 + [19, *[0] * 7, 1], runs=[5])
    response = await monitor.GetHistory(ms.GetHistoryRequest(), timeout=TIMEOUT)
    assert response.step == MINUTE
    times = [point.start_time.seconds for point in response.points]
    assert len(times) == 60
    assert times == list(range(times[0], times[0] + 3600, 60))
    [point] = [point for point in response.points if point.succeeded]
    assert (point.succeeded, point.failed) == (20, 0)
    assert point.wait.count == 20
    assert point.wait.p50.ToMilliseconds() == pytest.approx(1024, rel=0.1)
    assert point.wait.p95.ToMilliseconds() == pytest.approx(1024, rel=0.1)
    assert (point.run.count, point.run.p50.ToMilliseconds()) == (5, 1)
    empty = response.points[0]
    assert (empty.wait.count, empty.wait.HasField("p50")) == (0, False)


async def test_minutes_of_a_step_are_added(monitor: MonitorServiceStub, database: Database):
    for age in range(30):
        await add_minute(database, age, waits=[0, age % 2])
    request = ms.GetHistoryRequest(range=Duration(seconds=7200), step=Duration(seconds=3600))
    response = await monitor.GetHistory(request, timeout=TIMEOUT)
    assert len(response.points) == 2
    assert all(point.start_time.seconds % 3600 == 0 for point in response.points)
    assert sum(point.succeeded for point in response.points) == 30
    assert sum(point.wait.count for point in response.points) == 15


async def test_history_is_limited_to_a_queue_and_a_type(
    monitor: MonitorServiceStub, database: Database
) -> None:
    await add_minute(database, 1)
    await add_minute(database, 1, queue="slow")
    await add_minute(database, 1, type="other")
    for selected, expected in (({}, 3), ({"queue": "mail"}, 2), ({"type": "other"}, 1)):
        request = ms.GetHistoryRequest(**selected)
        response = await monitor.GetHistory(request, timeout=TIMEOUT)
        assert sum(point.succeeded for point in response.points) == expected


async def test_default_step_grows_with_the_range(monitor: MonitorServiceStub) -> None:
    for days, step in ((1, 8 * 60), (31, 248 * 60)):
        request = ms.GetHistoryRequest(range=Duration(seconds=days * 86_400))
        response = await monitor.GetHistory(request, timeout=TIMEOUT)
        assert response.step.seconds == step
        assert len(response.points) == 180


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("range", {"range": Duration(seconds=59)}),
        ("range", {"range": Duration(seconds=31 * 86_400 + 1)}),
        ("range", {"range": Duration(seconds=2**62)}),
        ("step", {"step": Duration(seconds=90)}),
        ("step", {"step": Duration(seconds=0)}),
        ("step", {"step": Duration(seconds=60), "range": Duration(seconds=31 * 86_400)}),
        ("queue", {"queue": "A B"}),
        ("type", {"type": "A B"}),
    ],
)
async def test_invalid_request_names_its_field(
    field: str, fields: dict[str, object], monitor: MonitorServiceStub
) -> None:
    error = await rpc_error(monitor.GetHistory(ms.GetHistoryRequest(**fields)))
    assert list(error.violations) == [field]
