"""Invalid timeouts and other durations."""

from datetime import timedelta
from math import inf, nan

import pytest

from headrace import Client, JobSpec, RetryPolicy, SyncClient
from headrace._convert import to_spec


@pytest.mark.parametrize("client", [Client, SyncClient])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("timeout", value) for value in (nan, -1.0, 0, inf)),
        *(("resume_timeout", value) for value in (nan, -0.5)),
        *(("retries", value) for value in (nan, -1, inf)),
    ],
)
def test_client_argument_out_of_range_is_rejected(client, argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} is {value}"):
        client("127.0.0.1:1", **{argument: value})


def test_timeout_that_is_not_a_number_is_rejected():
    with pytest.raises(TypeError, match="timeout is '5'; it must be a number of seconds"):
        Client("127.0.0.1:1", timeout="5")


@pytest.mark.parametrize("value", [nan, -1, 0, inf])
async def test_call_timeout_out_of_range_is_rejected(value):
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=rf"^call_timeout is {value}"):
            await client.submit("a", call_timeout=value)
        with pytest.raises(ValueError, match=rf"^call_timeout is {value}"):
            await client.submit_many([JobSpec("a")], call_timeout=value)


@pytest.mark.parametrize("value", [nan, -1])
async def test_result_timeout_out_of_range_is_rejected(value):
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=rf"^timeout is {value}"):
            await client.job("1").result(timeout=value)


async def test_infinite_timeout_is_accepted(server):
    async with Client(server.target, resume_timeout=inf) as client:
        job = await client.submit("square_sum", {"data": [2]})
        assert await job.result(timeout=inf) == 4
        with pytest.raises(TimeoutError):
            await (await client.submit("wait")).result(timeout=0)


@pytest.mark.parametrize("value", [nan, inf, -inf, 1e300])
@pytest.mark.parametrize("name", ["delay", "timeout", "initial_backoff", "max_backoff"])
def test_infinite_job_duration_is_rejected(name, value):
    retry = "backoff" in name
    spec = (
        JobSpec("a", retry=RetryPolicy(**{name: value})) if retry else JobSpec("a", **{name: value})
    )

    with pytest.raises(ValueError, match=f"^{name} is "):
        to_spec(spec)


def test_delay_beyond_the_year_9999_is_rejected():
    with pytest.raises(ValueError, match=r"^delay is .*year 10000"):
        to_spec(JobSpec("a", delay=timedelta(days=4_000_000)))
