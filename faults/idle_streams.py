"""A client process that opens streams and then idles until it is killed.

python -m faults.idle_streams COUNT TARGET...
"""

from __future__ import annotations

import asyncio
import sys

from grpc import aio

from headrace.v1 import job_service_pb2
from headrace.v1.job_service_pb2_grpc import JobServiceStub

# Connections per gateway, each with fewer streams than HEADRACE_MAX_CONCURRENT_STREAMS.
_CONNECTIONS = 15


async def main(count: int, targets: list[str]) -> None:
    """Open the streams, print "open" and wait."""
    stubs = [
        JobServiceStub(
            aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
        )
        for target in targets
        for _ in range(_CONNECTIONS)
    ]
    calls = []
    for number in range(count):
        call = stubs[number % len(stubs)].WatchJobs(
            job_service_pb2.WatchJobsRequest(
                filter=job_service_pb2.JobFilter(labels={"group": str(number)})
            )
        )
        calls.append(call)
    for call in calls:
        await call.read()
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
