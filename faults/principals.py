"""Principals that call the gateways with their own credentials, and check each rejection."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Sequence

import grpc
from grpc import aio

from faults.watchers import Metadata
from headrace.v1 import access_service_pb2, data_pb2, job_pb2, job_service_pb2
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.tenant_service_pb2_grpc import TenantServiceStub
from headrace_core.runtime.tasks import end_tasks

# The time limit of a call in seconds.
CALL_S = 10.0
# The pause between two calls of a principal, and between two checks of a rejection, in seconds.
_PAUSE_S = 0.02
_POLL_S = 0.05
_REJECTED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class Gateway:
    """The stubs of one gateway."""

    def __init__(self, channel: aio.Channel) -> None:
        self.jobs = JobServiceStub(channel)
        self.access = AccessServiceStub(channel)
        self.tenants = TenantServiceStub(channel)


class Principal:
    """A program that keeps submitting jobs and reading statistics, at alternating gateways.

    Attributes:
        name: the name, and the value of the label `load` of its jobs.
        credential: the current credential, which the next call uses.
        credential_id: the id of the credential, if it is a key.
        calls: the number of calls that ended.
        failures: the number of failed calls, by code.
    """

    def __init__(
        self, name: str, credential: str, gateways: Sequence[Gateway], *, credential_id: str = ""
    ) -> None:
        self.name = name
        self.credential = credential
        self.credential_id = credential_id
        self.calls = 0
        self.failures: Counter[str] = Counter()
        self._gateways = itertools.cycle(gateways)
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def metadata(self) -> Metadata:
        """Return the metadata of the next call."""
        return bearer(self.credential)

    def start(self) -> None:
        """Start calling."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Stop calling."""
        if self._task is not None:
            await end_tasks(self._task)

    async def use(self, credential: str, *, credential_id: str = "") -> None:
        """Change the credential, and wait until no call uses the earlier one."""
        self.credential, self.credential_id = credential, credential_id
        until = self.calls + 2
        while self.calls < until:
            self._ended.clear()
            await self._ended.wait()

    async def _run(self) -> None:
        for number in itertools.count():
            gateway = next(self._gateways)
            try:
                if number % 4:
                    await gateway.jobs.GetStats(
                        job_service_pb2.GetStatsRequest(), metadata=self.metadata(), timeout=CALL_S
                    )
                else:
                    await self._submit(gateway)
            except aio.AioRpcError as error:
                self.failures[error.code().name] += 1
            self.calls += 1
            self._ended.set()
            await asyncio.sleep(random.uniform(0, 2 * _PAUSE_S))

    async def _submit(self, gateway: Gateway) -> None:
        spec = job_pb2.JobSpec(
            type="work",
            payload=data_pb2.Data(json=b'{"seconds": 0.02}'),
            labels={"load": self.name},
        )
        await gateway.jobs.SubmitJob(
            job_service_pb2.SubmitJobRequest(job=spec), metadata=self.metadata(), timeout=CALL_S
        )


def bearer(credential: str) -> Metadata:
    """Return the call metadata with a credential."""
    return (("authorization", f"Bearer {credential}"),)


async def seconds_until_rejected(
    gateways: Sequence[Gateway], credential: str, *, within: float
) -> float:
    """Call all gateways until each of them rejects a credential.

    Returns:
        The seconds until the slowest rejection; NaN if a gateway still accepts the credential.
    """
    started = time.monotonic()

    async def seconds_until_rejection(gateway: Gateway) -> float:
        while time.monotonic() - started < within:
            try:
                await gateway.access.WhoAmI(
                    access_service_pb2.WhoAmIRequest(),
                    metadata=bearer(credential),
                    timeout=CALL_S,
                )
            except aio.AioRpcError as error:
                if error.code() in _REJECTED:
                    return time.monotonic() - started
            await asyncio.sleep(_POLL_S)
        return float("nan")

    times = await asyncio.gather(*map(seconds_until_rejection, gateways))
    return float("nan") if any(map(math.isnan, times)) else max(times)


async def open_stream(gateway: Gateway, credential: str) -> asyncio.Task[tuple[str, float]]:
    """Open a stream, and return a task that reads it and returns its status code and end time."""
    call = gateway.jobs.WatchJobs(job_service_pb2.WatchJobsRequest(), metadata=bearer(credential))
    await call.read()

    async def read() -> tuple[str, float]:
        try:
            while await call.read() is not aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
                pass
        except aio.AioRpcError as error:
            return error.code().name, time.monotonic()
        finally:
            call.cancel()
        return "OK", time.monotonic()

    return asyncio.create_task(read())
