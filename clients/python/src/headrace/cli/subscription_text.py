"""Subscriptions as text for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from headrace import Subscription
from headrace.cli.text import plain, span_text, table, time_text


def subscriptions_table(subscriptions: Iterable[Subscription]) -> Table:
    rows = table("NAME", "RECEIVES", "BEHIND", "ACKNOWLEDGED", "FILTER")
    for subscription in subscriptions:
        rows.add_row(
            subscription.name,
            plain(subscription.consumer) or "-",
            span_text(subscription.lag) if subscription.lag is not None else "-",
            time_text(subscription.ack_time) or "never",
            _filter_text(subscription),
        )
    return rows


def subscription_view(subscription: Subscription) -> RenderableType:
    """All of a subscription that there is to say."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("name", subscription.name)
    grid.add_row("filter", _filter_text(subscription))
    grid.add_row("receives", plain(subscription.consumer) or "nobody")
    behind = span_text(subscription.lag) if subscription.lag is not None else "nothing"
    grid.add_row("behind", Text(behind))
    grid.add_row("acknowledged", time_text(subscription.ack_time) or "never")
    grid.add_row("created", time_text(subscription.create_time))
    return grid


def _filter_text(subscription: Subscription) -> Text:
    if "filter" in subscription.unreadable_fields:
        return Text("unreadable")
    job_filter = subscription.filter
    parts = [
        *(("queue", queue) for queue in job_filter.queues),
        *(("type", job_type) for job_type in job_filter.types),
        *(("state", state.lower()) for state in job_filter.states),
        *(("label", f"{key}={value}") for key, value in job_filter.labels.items()),
        *(("batch", job_filter.batch_id) for _ in range(bool(job_filter.batch_id))),
        *(("job", job_id) for job_id in job_filter.job_ids),
    ]
    return Text(plain(" ".join(f"{name}:{value}" for name, value in parts)) or "all jobs")
