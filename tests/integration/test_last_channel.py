"""The gRPC polling thread survives the last server or channel of a process.

Without this thread, the event loop would block.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVER_PROGRAM = """
import asyncio, threading
from headrace_health import Health, HealthServer

async def main():
    server = HealthServer(address="127.0.0.1:0", health=Health(checks=()))
    await server.start()
    await server.stop()
    del server
"""
CLIENT_PROGRAM = """
import asyncio, threading
from headrace import CallError, Client

async def main():
    async with Client("127.0.0.1:1", retries=0) as client:
        try:
            await client.stats()
        except CallError:
            pass
    del client
"""
REPORT_THREADS = """
asyncio.run(main())
print([thread.name for thread in threading.enumerate() if "poll" in thread.name])
"""


@pytest.mark.parametrize("program", [SERVER_PROGRAM, CLIENT_PROGRAM], ids=["server", "client"])
def test_polling_thread_outlives_the_last_channel(program: str) -> None:
    completed = subprocess.run(
        (sys.executable, "-c", program + REPORT_THREADS),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert "_poll_wrapper" in completed.stdout
