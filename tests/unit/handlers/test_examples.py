"""The handlers of examples/ work as documented."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from headrace_worker import Fail, Retry, Stopped
from headrace_worker.api.registry import registry
from support.recording import Recording, async_context

FILE = Path(__file__).parents[3] / "examples" / "handlers.py"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("headrace_examples", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Other tests may load the same file under another name.
    monkeypatch.setattr(registry, "_handlers", dict(registry._handlers))
    # As for any imported module, annotations are resolved through sys.modules.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


async def test_flaky_succeeds_at_the_third_attempt(examples: ModuleType) -> None:
    payload = examples.Flaky()
    with pytest.raises(ConnectionResetError):
        await examples.flaky(payload, async_context(number=1))
    with pytest.raises(Retry) as retry:
        await examples.flaky(payload, async_context(number=2))
    assert retry.value.after is not None
    assert await examples.flaky(payload, async_context(number=3)) == examples.FlakyResult(attempt=3)


def test_broken_fails_without_retries(examples: ModuleType) -> None:
    with pytest.raises(Fail) as failure:
        examples.broken(examples.Nothing())
    assert failure.value.type == "OrderInvalid"
    registered = registry.get("broken")
    assert registered is not None
    assert not registered.takes_context


async def test_slow_reports_progress_to_the_end(examples: ModuleType) -> None:
    recording = Recording()
    async with asyncio.timeout(60):
        slept = await examples.slow(examples.Slow(seconds=0.25), async_context(recording))
    assert slept.seconds >= 0.25
    assert recording.fractions[0] < 0.1
    assert recording.fractions == sorted(recording.fractions)
    assert recording.fractions[-1] == 1.0


async def test_slow_stops_when_it_is_cancelled(examples: ModuleType) -> None:
    recording = Recording()
    ctx = async_context(recording)
    job = asyncio.create_task(examples.slow(examples.Slow(seconds=3600), ctx))
    async with asyncio.timeout(60):
        await recording.reported.wait()
        ctx.cancel_event.set()
        with pytest.raises(Stopped):
            await job
