"""`headrace login`, `logout` and `password`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Annotated, Final

from cyclopts import Parameter

from headrace.cli.config import Context, changing_config, load_config
from headrace.cli.connection import Connection, Options, connection, without_credential
from headrace.cli.secret_input import interruptible_prompt, read_secret
from headrace.cli.session import Injected
from headrace.cli.stored_session import with_tokens
from headrace.cli.usage import UsageError

# The context that a login without any context creates.
_DEFAULT_CONTEXT: Final = "default"
# A copy of the client's default: the command line imports the client only for calls.
_DEFAULT_TARGET: Final = "127.0.0.1:50051"


async def login(
    username: Annotated[
        str | None,
        Parameter(name="USERNAME", help="The user; default: the user of the context, or a prompt."),
    ] = None,
    /,
    *,
    session: Injected,
) -> None:
    chosen = _choose_context(session.options)
    context = chosen.context
    username = username or context.username or _ask_for_username()
    password = read_secret("Password")
    async with chosen.client(authenticated=False) as client:
        result = await client.login(username, password, tenant=context.tenant or None)
    logged_in = with_tokens(replace(without_credential(context), username=username), result.tokens)
    with changing_config() as config:
        config.contexts[chosen.name] = logged_in
        config.current = config.current or chosen.name
    principal = result.principal
    session.output.value(
        principal,
        f"logged in as {principal.name} ({principal.role}, tenant {principal.tenant}) in the "
        f"context {chosen.name}",
    )


async def logout(*, session: Injected) -> None:
    chosen = _choose_context(session.options)
    refresh_token = chosen.context.refresh_token
    if not refresh_token:
        raise UsageError(f"context {chosen.name} has no session")
    try:
        async with chosen.client(authenticated=False) as client:
            await client.logout(refresh_token)
    finally:
        # Remove the local tokens even if no gateway is available.
        with changing_config() as config:
            if chosen.name in config.contexts:
                context = config.contexts[chosen.name]
                config.contexts[chosen.name] = replace(
                    without_credential(context), username=context.username
                )
    session.output.message(f"logged out of the context {chosen.name}")


async def change_password(*, session: Injected) -> None:
    current = read_secret("Current password")
    new = read_secret("New password")
    if sys.stdin.isatty() and read_secret("New password again") != new:
        raise UsageError("the new passwords differ")
    async with session.client() as client:
        await client.change_password(current, new)
    session.output.message("the password was changed, and other sessions were ended")


def _choose_context(options: Options) -> Connection:
    """Return the connection of a login: of the chosen context, or of a new one."""
    name = options.context_name
    if name and name not in load_config().contexts:
        target = os.environ.get("HEADRACE_TARGET") or _DEFAULT_TARGET
        return Connection(name=name, context=options.apply_to(Context(target=target)))
    chosen = connection(options)
    if chosen.name:
        # Ignore the credential of the environment.
        context = load_config().find(chosen.name)
        return replace(chosen, context=options.apply_to(context))
    context = replace(chosen.context, target=chosen.context.target or _DEFAULT_TARGET)
    existing = load_config().contexts.get(_DEFAULT_CONTEXT)
    if existing is not None and existing.target != context.target:
        raise UsageError(
            f'context "{_DEFAULT_CONTEXT}" has the target {existing.target}; use --context NAME '
            "for another context"
        )
    return Connection(name=_DEFAULT_CONTEXT, context=options.apply_to(existing or context))


def _ask_for_username() -> str:
    if not sys.stdin.isatty():
        raise UsageError("the username is missing; use headrace login USERNAME")
    sys.stderr.write("Username: ")
    sys.stderr.flush()
    with interruptible_prompt():
        username = sys.stdin.readline().strip()
    if not username:
        raise UsageError("the username is empty")
    return username
