"""F26: clients flood the gateways with frames, connections, headers and compressed bombs."""

from __future__ import annotations

import asyncio

import msgspec

from faults.abuse import KINDS, Counts
from faults.cluster import Plan
from faults.hostile import FLOODS_CLOSED, probing, run_hostile_client
from faults.measure import percentile
from faults.scenario import Scenario
from faults.trial import Trial

LOAD_PER_S = 20.0
HEALTH_S = 0.2
# Memory growth of a gateway during one kind of abuse, and growth that remains after all of them.
MAX_PEAK_MIB = 256.0
MAX_LASTING_MIB = 128.0
# Durations of the measurement without abuse, of one kind of abuse, of the wait between two kinds,
# and of the wait for the return of memory, in seconds.
_USUAL_S = 5.0
_ABUSE_S = 12.0
_REST_S = 2.0
_RETURN_S = 65.0
# The limit that docs/security.md recommends for gateways that unknown callers can reach.
_PUBLIC_STREAMS = 100
# Duration of a flood whose connections the gateway closes, in seconds: the patience of the gateway,
# and the time in which a connection exceeds its limit.
_FLOOD_S = 30.0

# The floods whose connections the gateway closes. It also closes slow handshakes. Other kinds of
# abuse are harmless within the limits of a connection.
_FLOODS = frozenset(
    {"rapid reset", "ping flood", "settings flood", "header flood", "huge metadata"}
)
_CLOSED = _FLOODS | {"slow handshakes"}


async def run(trial: Trial) -> None:
    gateways = trial.cluster.gateways
    await trial.load(rate=LOAD_PER_S)
    pids = [service.pid for service in trial.cluster.services]
    start = {gateway.name: gateway.memory_mib() for gateway in gateways}
    async with probing(trial) as usual:
        await asyncio.sleep(_USUAL_S)
    trial.figure("health check, p99 before", percentile(usual.waits, 0.99), "s")
    for kind in KINDS:
        await _abuse(trial, kind, seconds=_FLOOD_S if kind in _FLOODS else _ABUSE_S)
        await asyncio.sleep(_REST_S)
    trial.expect_codes(only=frozenset())
    counted = sum([await gateway.metric(FLOODS_CLOSED) for gateway in gateways])
    trial.figure("flooding connections closed by a gateway", counted, at_least=len(_FLOODS))
    await asyncio.sleep(_RETURN_S)
    rest = max(gateway.memory_mib() - start[gateway.name] for gateway in gateways)
    trial.figure("remaining memory growth of a gateway", rest, "MiB", at_most=MAX_LASTING_MIB)
    same = sum(
        service.pid == pid for service, pid in zip(trial.cluster.services, pids, strict=True)
    )
    running = sum(service.running for service in trial.cluster.services)
    trial.figure("processes without a restart", min(same, running), at_least=len(pids))


async def _abuse(trial: Trial, kind: str, *, seconds: float) -> None:
    gateways = trial.cluster.gateways
    before = {gateway.name: gateway.memory_mib() for gateway in gateways}
    async with probing(trial) as health, trial.fault(kind):
        out = await run_hostile_client(
            "faults.abuse",
            kind,
            str(seconds),
            *(gateway.address for gateway in gateways),
            timeout=seconds + 60,
        )
    counts = msgspec.json.decode(out, type=Counts)
    trial.log(f"{kind}: {counts}")
    p99 = percentile(health.waits, 0.99)
    trial.figure(f"{kind}: health check, p99", p99, "s", at_most=HEALTH_S)
    trial.figure(f"{kind}: health checks that were not SERVING", health.not_serving, at_most=0)
    growth = max(health.peaks[name] - before[name] for name in before)
    trial.figure(f"{kind}: memory growth of a gateway", growth, "MiB", at_most=MAX_PEAK_MIB)
    trial.figure(f"{kind}: sent", counts.sent, at_least=1)
    trial.figure(f"{kind}: connections", counts.connections)
    ended = counts.closed + counts.refused
    trial.figure(f"{kind}: closed or refused connections", ended, at_least=int(kind in _CLOSED))


SCENARIO = Scenario(
    id="F26",
    title="rapid resets, floods of frames, headers and connections, slow clients, gzip bombs",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    plan=Plan(settings={"max_concurrent_streams": _PUBLIC_STREAMS}),
    usual=350,
    usual_short=350,
)
