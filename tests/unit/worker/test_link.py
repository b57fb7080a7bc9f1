"""Reports from a handler process, and their replies."""

from __future__ import annotations

import asyncio
import io

import pytest

from headrace_worker.runners import frames
from headrace_worker.runners.link import Link


def test_unencodable_report_waits_for_no_reply() -> None:
    loop = asyncio.new_event_loop()
    link = Link(io.BytesIO(frames.encode(frames.Response())), io.BytesIO(), loop)
    loop.close()
    reporter = link.start_run()
    with pytest.raises(UnicodeEncodeError):
        link.send(reporter, frames.Output(chunk="\udcff"))
    reply = link.send(reporter, frames.Output(chunk="next"))
    link.receive()
    assert reply.done()
