"""The connection of a command, from the global options, the environment and the current context.

The credential of a context is sent only to the gateways of that context, unless the command line
names both the context and another target.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import headrace
from headrace.cli.config import Config, Context, is_readable, load_config
from headrace.cli.stored_session import StoredSession
from headrace.cli.usage import UsageError

if TYPE_CHECKING:
    from headrace import Client

# Fewer retries than in a program, because a user is waiting and can repeat the command.
_MAX_RETRIES: Final = 2

_CREDENTIAL_VARIABLES: Final = ("HEADRACE_TOKEN", "HEADRACE_API_KEY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The global options of a connection.

    Args:
        target: the address of the gateway, or several addresses separated by commas.
        context: the name of a context.
        tls: whether to use TLS.
        tls_ca, tls_cert, tls_key: paths of PEM files; see `headrace.TLS`.
        insecure: whether to send the credential in plaintext to another machine.
        tenant: the tenant of all calls.
    """

    target: str | None = None
    context: str | None = None
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    tenant: str | None = None

    @property
    def context_name(self) -> str:
        """The context that the command line or the environment names; empty for none."""
        return self.context or os.environ.get("HEADRACE_CONTEXT", "")

    def apply_to(self, context: Context) -> Context:
        """Return a context with these options in place of its own."""
        files = {
            name: str(path.absolute())
            for name in ("tls_ca", "tls_cert", "tls_key")
            if (path := getattr(self, name)) is not None
        }
        return replace(
            context,
            target=self.target or context.target,
            tls=self.tls or context.tls,
            insecure=self.insecure or context.insecure,
            tenant=self.tenant or context.tenant,
            **files,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """The installation that a command calls.

    Args:
        name: the name of the context; empty without one.
        context: the context with the global options applied.
    """

    name: str = ""
    context: Context = field(default_factory=Context)

    def client(self, *, authenticated: bool = True) -> Client:
        """Return a client, to use in `async with`.

        Args:
            authenticated: whether the client has a credential.

        Raises:
            UsageError: an option or a setting is not valid.
        """
        # Without this, gRPC would log lost connections to the terminal. gRPC reads the variable
        # when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        context = self.context
        credential = self._credential() if authenticated else {}
        try:
            tls = None
            if context.uses_tls:
                tls = headrace.TLS(
                    ca=context.tls_ca or None,
                    cert=context.tls_cert or None,
                    key=context.tls_key or None,
                )
            return headrace.Client(
                context.target or None,
                **credential,
                tls=tls,
                insecure=context.insecure,
                tenant=context.tenant or None,
                retries=_MAX_RETRIES,
            )
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(str(error)) from error

    def _credential(self) -> dict[str, Any]:
        """Return the arguments of the client; empty for the credential of the environment."""
        context = self.context
        if context.refresh_token:
            session = StoredSession(self.name, partial(self.client, authenticated=False))
            return {"token_provider": session}
        if context.api_key:
            return {"api_key": context.api_key}
        return {"token": context.token} if context.token else {}


def connection(options: Options) -> Connection:
    """Return the connection of a command.

    The context is the one of `--context` or HEADRACE_CONTEXT. Otherwise it is the current context,
    but only if no target is set (`--target`, HEADRACE_TARGET) or if its target is the same.
    HEADRACE_TOKEN and HEADRACE_API_KEY replace the credential of the current context, but not the
    credential of a context that the command line names.

    Raises:
        UsageError: the context does not exist, or the configuration is not valid.
    """
    name = options.context_name
    if name:
        return Connection(name=name, context=options.apply_to(load_config().find(name)))
    target = options.target or os.environ.get("HEADRACE_TARGET", "")
    config = load_config() if is_readable() or not target else Config()
    current = config.find(config.current) if config.current else Context()
    if not config.current or (target and current.target != target):
        return Connection(context=options.apply_to(Context(target=target)))
    context = options.apply_to(current)
    if any(os.environ.get(variable) for variable in _CREDENTIAL_VARIABLES):
        context = without_credential(context)
    return Connection(name=config.current, context=context)


def without_credential(context: Context) -> Context:
    """Return a context without its credential."""
    return replace(
        context,
        api_key="",
        token="",
        username="",
        access_token="",
        access_expire_time="",
        refresh_token="",
    )
