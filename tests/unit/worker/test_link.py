"""The reports of a handler in its process, and their answers."""

from __future__ import annotations

import asyncio
import io

import pytest

from headrace_worker.runners import frames
from headrace_worker.runners.link import Link


def test_report_that_cannot_be_encoded_awaits_no_answer() -> None:
    loop = asyncio.new_event_loop()
    link = Link(io.BytesIO(frames.frame(frames.Taken())), io.BytesIO(), loop)
    loop.close()
    reporter = link.begin()
    with pytest.raises(UnicodeEncodeError):
        link.send(reporter, frames.Output(chunk="\udcff"))
    answer = link.send(reporter, frames.Output(chunk="next"))
    link.receive()
    assert answer.done()
