"""A web service in the test's event loop, and an HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from headrace_web.service import Web


@pytest.fixture
async def web(settings: Settings, gateway: Gateway) -> AsyncIterator[Web]:
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    yield web
    await web.stop()


@pytest.fixture
async def http(web: Web) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the web service."""
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{web.port}", timeout=30, trust_env=False
    ) as client:
        yield client
