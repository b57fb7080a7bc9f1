"""Metrics of a service, read over HTTP."""

from __future__ import annotations

import asyncio
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 5.0
# Ignore the environment's proxy settings, since all services are on loopback.
_opener = build_opener(ProxyHandler({}))


async def read_metric(url: str, name: str, **labels: str) -> float:
    """Return the sum of a metric over the samples with these labels.

    Raises:
        KeyError: no sample matches.
        OSError: the service does not respond.
    """
    text = await asyncio.to_thread(_fetch, url)
    values = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    if not values:
        raise KeyError(name)
    return sum(values)


def _fetch(url: str) -> str:
    with _opener.open(url, timeout=_TIMEOUT_S) as response:
        text: bytes = response.read()
    return text.decode()
