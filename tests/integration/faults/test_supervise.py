"""A supervised service is started again when it dies, and only then."""

from __future__ import annotations

import asyncio
import os
import signal

from faults.cluster import Plan, running

DEADLINE_S = 60


async def test_a_service_that_dies_is_started_again_and_one_that_was_ended_is_not():
    async with running(Plan(gateways=0, schedulers=2, workers=0)) as cluster:
        dies, ends = cluster.schedulers
        supervising = [asyncio.create_task(service.supervise()) for service in (dies, ends)]
        await ends.terminate()
        os.kill(dies.pid, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            while not dies.restarts:
                await asyncio.sleep(0.05)
            await dies.serving()
        for task in supervising:
            task.cancel()
        assert (dies.restarts, ends.restarts) == (1, 0)
        assert dies.running
        assert not ends.running
