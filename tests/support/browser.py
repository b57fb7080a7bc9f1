"""The errors that a browser reports while a test runs."""

from __future__ import annotations

from playwright.async_api import BrowserContext, ConsoleMessage, Request

# A page that closes or is left cancels its requests.
_CANCELLED = "net::ERR_ABORTED"


class Errors:
    """Collects errors of scripts, failed requests, and violations of the content security policy.

    Args:
        context: the context of the browser's pages.

    Attributes:
        unexpected: the errors that no test expects.
        seen: the expected errors.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.unexpected: list[str] = []
        self.seen: list[str] = []
        self._expected: list[str] = []
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self._add(f"script: {error.error}"))
        context.on("requestfailed", self._on_failure)

    def expect(self, *texts: str) -> None:
        """Expect errors that contain one of these texts."""
        self._expected += texts

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._add(f"console: {message.text} {message.location.get('url', '')}")

    def _on_failure(self, request: Request) -> None:
        if request.failure != _CANCELLED:
            self._add(f"request: {request.url}: {request.failure}")

    def _add(self, error: str) -> None:
        expected = any(text in error for text in self._expected)
        (self.seen if expected else self.unexpected).append(error)
