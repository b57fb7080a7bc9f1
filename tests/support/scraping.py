"""Metrics, read over HTTP as Prometheus does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

# The value of each sample, by `name` or `name{label="value"}`.
Scrape = dict[str, float]


async def scrape(port: int) -> Scrape:
    """Return the current metrics of a service."""
    text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
    samples: Scrape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


async def scrape_until(
    port: int, condition: Callable[[Scrape], bool], *, within: float = 30
) -> Scrape:
    """Scrape until the metrics meet a condition; return them.

    Raises:
        TimeoutError: the metrics did not meet the condition in time.
    """
    async with asyncio.timeout(within):
        while not condition(samples := await scrape(port)):
            await asyncio.sleep(0.02)
    return samples


def _get(url: str) -> str:
    with urlopen(url, timeout=60) as response:
        return str(response.read().decode())
