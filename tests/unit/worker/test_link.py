"""What a handler says in its process, and the answers to it."""

from __future__ import annotations

import asyncio
import io

import pytest

from headrace_worker.runners import frames
from headrace_worker.runners.link import Link


def test_what_cannot_be_said_waits_for_no_answer() -> None:
    loop = asyncio.new_event_loop()
    link = Link(io.BytesIO(frames.frame(frames.Taken())), io.BytesIO(), loop)
    loop.close()
    voice = link.begin()
    with pytest.raises(UnicodeEncodeError):
        link.say(voice, frames.Output(chunk="\udcff"))
    answer = link.say(voice, frames.Output(chunk="next"))
    link.read()
    assert answer.done()
