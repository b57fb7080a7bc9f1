"""F25: clients send garbage: too large, too deep, invalid protobuf, invalid UTF-8."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from faults.hostile import FLOODS_CLOSED, probing, run_hostile_client
from faults.measure import percentile
from faults.scenario import Scenario
from faults.trial import Trial
from headrace import CallError, Client
from headrace_core.domain.lifecycle import TERMINAL

LOAD_PER_S = 20.0
HEALTH_S = 0.2
# Memory growth of a gateway while it decodes the largest messages that its limits allow, and
# growth that may remain because the allocator keeps freed memory.
MAX_PEAK_MIB = 256.0
MAX_LASTING_MIB = 128.0
# Duration of the measurement without garbage, in seconds.
_BASELINE_S = 5.0

# The codes allowed for each kind of garbage. Random messages may be valid.
_RANDOM_CODES = frozenset(
    {
        *("OK", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND"),
        *("ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "ABORTED"),
    }
)
_ALLOWED: Mapping[str, frozenset[str]] = {
    # gRPC itself rejects it.
    "100 MB": frozenset({"RESOURCE_EXHAUSTED"}),
    # Reflection is not served.
    "5 MB": frozenset({"INVALID_ARGUMENT", "UNIMPLEMENTED"}),
    "deep": frozenset({"INVALID_ARGUMENT", "UNIMPLEMENTED"}),
    "deep JSON": frozenset({"INVALID_ARGUMENT"}),
    "JSON at the depth limit": frozenset({"OK"}),
    "deep Struct": frozenset({"INVALID_ARGUMENT"}),
    "invalid UTF-8": frozenset({"INVALID_ARGUMENT"}),
    "NaN": frozenset({"INVALID_ARGUMENT"}),
    "huge repeated": frozenset({"OK", "INVALID_ARGUMENT"}),
    "metadata": _RANDOM_CODES,
    "unknown method": frozenset({"UNIMPLEMENTED"}),
    "random bytes": _RANDOM_CODES,
    "random message": _RANDOM_CODES,
    "mutated": _RANDOM_CODES,
}


async def run(trial: Trial) -> None:
    gateways = trial.cluster.gateways
    await trial.load(rate=LOAD_PER_S)
    pids = [service.pid for service in trial.cluster.services]
    before = {gateway.name: gateway.memory_mib() for gateway in gateways}
    async with probing(trial) as usual:
        await asyncio.sleep(_BASELINE_S)
    trial.figure("health check, p99 before", percentile(usual.waits, 0.99), "s")
    async with probing(trial) as health, trial.fault("garbage"):
        responses = await _send_garbage(trial, seconds=20 if trial.short else 90)
    trial.expect_codes(only=frozenset())
    closed = sum([await gateway.metric(FLOODS_CLOSED) for gateway in gateways])
    _check_responses(trial, responses, closed=closed)
    trial.figure("health check, p99 during", percentile(health.waits, 0.99), "s", at_most=HEALTH_S)
    trial.figure("health checks that were not SERVING", health.not_serving, at_most=0)
    await _cancel_accepted(trial)
    growth = max(health.peaks[name] - before[name] for name in before)
    trial.figure("highest memory growth of a gateway", growth, "MiB", at_most=MAX_PEAK_MIB)
    rest = max(gateway.memory_mib() - before[gateway.name] for gateway in gateways)
    trial.figure("remaining memory growth of a gateway", rest, "MiB", at_most=MAX_LASTING_MIB)
    same = sum(
        service.pid == pid for service, pid in zip(trial.cluster.services, pids, strict=True)
    )
    running = sum(service.running for service in trial.cluster.services)
    trial.figure("processes without a restart", min(same, running), at_least=len(pids))


def _check_responses(trial: Trial, responses: dict[str, Any], *, closed: float) -> None:
    """Check that every kind of garbage was sent and received only allowed codes.

    A gateway closes a connection whose messages it cannot read, because they are too large. That
    ends the one call that the connection then has.

    Args:
        trial, responses: the records.
        closed: the number of connections that the gateways closed.
    """
    total, cut, others = 0, 0, Counter[str]()
    for kind, codes in sorted(responses["counts"].items()):
        total += sum(codes.values())
        trial.log(f"{kind}: {', '.join(f'{code} {count}' for code, count in codes.items())}")
        cut += codes.get("UNAVAILABLE", 0)
        for code in codes.keys() - _ALLOWED[kind] - {"UNAVAILABLE"}:
            others[f"{kind} {code}"] += codes[code]
    for name in others:
        trial.log(f"{name}: {responses['examples'][name]}")
    trial.figure("messages of garbage", total, at_least=1000)
    trial.figure("calls cut with a flooding connection", cut, at_most=closed)
    trial.figure("kinds of garbage", len(responses["counts"]), at_least=len(_ALLOWED))
    trial.figure(
        f"responses with an unexpected code{': ' if others else ''}{', '.join(sorted(others))}",
        others.total(),
        at_most=0,
    )


async def _send_garbage(trial: Trial, *, seconds: float) -> dict[str, Any]:
    targets = [gateway.address for gateway in trial.cluster.gateways]
    responses: dict[str, Any] = json.loads(
        await run_hostile_client(
            "faults.garbage", str(trial.seed), str(seconds), *targets, timeout=seconds + 60
        )
    )
    return responses


async def _cancel_accepted(trial: Trial) -> None:
    """Cancel the jobs that garbage submitted and that no worker can run."""
    async with Client([gateway.address for gateway in trial.cluster.gateways]) as client:
        accepted = [
            job_id
            for job_id, job in (await trial.records.jobs()).items()
            if "load" not in job.labels and job.state not in TERMINAL
        ]
        for job_id in accepted:
            # The job may have ended by now.
            with suppress(CallError):
                await client.cancel(job_id)
    trial.figure("jobs from garbage that were cancelled", len(accepted))


SCENARIO = Scenario(
    id="F25",
    title="messages of 5 and 100 MB, random and mutated protobuf, deep and unterminated documents",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    usual=115,
    usual_short=45,
)
