"""The session of a user, whose tokens are in the configuration file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from headrace import SessionTokens
from headrace.cli.config import Context, changing_config, load_config
from headrace.cli.usage import UsageError

if TYPE_CHECKING:
    from headrace import Client

# An access token is renewed if it expires within this time.
_MARGIN: Final = timedelta(seconds=30)


class StoredSession:
    """A token provider for `Client`: returns and renews the access token of a context.

    Commands that run at the same time share the tokens: a refresh token can be used again for a
    short time, and each process reads the tokens that another one has stored.

    Args:
        name: the name of the context.
        connect: returns a client without a credential.
    """

    def __init__(self, name: str, connect: Callable[[], Client]) -> None:
        self._name = name
        self._connect = connect
        self._returned = ""

    async def __call__(self) -> str:
        """Return an access token.

        Raises:
            UsageError: the user has logged out.
            Unauthenticated: the session has ended.
        """
        context = load_config().find(self._name)
        if not context.refresh_token:
            raise UsageError(f"context {self._name} has no session; run: headrace login")
        if context.access_token == self._returned or _expires_soon(context):
            async with self._connect() as client:
                tokens = await client.refresh_session(context.refresh_token)
            store_tokens(self._name, tokens)
            self._returned = tokens.access_token
        else:
            self._returned = context.access_token
        return self._returned


def with_tokens(context: Context, tokens: SessionTokens) -> Context:
    """Return a context with the tokens of a session."""
    expire_time = tokens.access_expire_time
    return replace(
        context,
        access_token=tokens.access_token,
        access_expire_time=expire_time.isoformat() if expire_time else "",
        refresh_token=tokens.refresh_token,
    )


def store_tokens(name: str, tokens: SessionTokens) -> None:
    """Store the tokens of a session in its context, unless the user has logged out."""
    with changing_config() as config:
        context = config.contexts.get(name)
        if context is not None and context.refresh_token:
            config.contexts[name] = with_tokens(context, tokens)


def _expires_soon(context: Context) -> bool:
    try:
        expire_time = datetime.fromisoformat(context.access_expire_time)
    except ValueError:
        return False
    return expire_time - _MARGIN <= datetime.now(UTC)
