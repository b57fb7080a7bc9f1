"""A supervised service restarts only if it has died."""

from __future__ import annotations

import asyncio
import os
import signal

from faults.cluster import Plan, running

DEADLINE_S = 60


async def test_killed_service_restarts_and_stopped_one_does_not():
    async with running(Plan(gateways=0, schedulers=2, workers=0)) as cluster:
        killed, stopped = cluster.schedulers
        supervising = [asyncio.create_task(service.supervise()) for service in (killed, stopped)]
        await stopped.terminate()
        os.kill(killed.pid, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            while not killed.restarts:
                await asyncio.sleep(0.05)
            await killed.serving()
        for task in supervising:
            task.cancel()
        assert (killed.restarts, stopped.restarts) == (1, 0)
        assert killed.running
        assert not stopped.running
