"""Fixtures of the delivery tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from headrace_core.delivery import Deliverer
from headrace_core.runtime.settings import Settings
from support.valkey import OwnValkey, own_valkey
from support.worker_callbacks import identify


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    """A Valkey for one test."""
    with own_valkey() as valkey:
        yield valkey


@pytest.fixture
async def deliverer(settings: Settings) -> AsyncIterator[Deliverer]:
    deliverer = Deliverer(settings, identify=identify)
    yield deliverer
    await deliverer.close()
