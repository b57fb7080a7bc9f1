"""The logs of jobs whose worker runs in the process of the test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from headrace_worker.runners.handler_logs import HandlerLines


@contextmanager
def stored_lines(logger: logging.Logger) -> Iterator[None]:
    """Store the lines of a logger with the jobs whose handlers log them, as a worker process does.

    The configuration of a worker process would replace the logging of pytest.
    """
    lines = HandlerLines().filter
    level = logger.level
    logger.addFilter(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeFilter(lines)
