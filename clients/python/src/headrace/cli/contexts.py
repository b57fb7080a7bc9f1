"""`headrace context add`, `list`, `use` and `remove`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from headrace.cli.arguments import Flag
from headrace.cli.completion import complete_contexts
from headrace.cli.config import Context, changing_config, load_config
from headrace.cli.secret_input import read_secret_file
from headrace.cli.session import Injected
from headrace.cli.tables import contexts_table
from headrace.cli.usage import UsageError

_Name: TypeAlias = Annotated[
    str,
    Parameter(name="NAME", completer=complete_contexts, help="The name of the context."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSummary:
    """A context without secrets, for the output."""

    name: str
    current: bool
    target: str
    tls: bool
    tenant: str
    credential: str


def add(
    name: _Name,
    /,
    *,
    api_key_file: Annotated[
        str | None,
        Parameter(metavar="FILE", help="File with an API key, or - for a prompt or stdin."),
    ] = None,
    token_file: Annotated[
        str | None,
        Parameter(metavar="FILE", help="File with an access token, or - for a prompt or stdin."),
    ] = None,
    use: Annotated[Flag, Parameter(help="Make the new context the current one.")] = False,
    session: Injected,
) -> None:
    if api_key_file and token_file:
        raise UsageError("use either --api-key-file or --token-file, not both")
    context = session.options.apply_to(Context())
    if not context.target:
        raise UsageError("a context needs the address of its gateway; use --target")
    if bool(context.tls_cert) != bool(context.tls_key):
        raise UsageError("use both --tls-cert and --tls-key, or neither")
    if api_key_file:
        context = replace(context, api_key=read_secret_file("API key", api_key_file))
    if token_file:
        context = replace(context, token=read_secret_file("Token", token_file))
    with changing_config() as config:
        if name in config.contexts:
            raise UsageError(
                f'context "{name}" already exists; remove it first, or choose another name'
            )
        config.contexts[name] = context
        if use or not config.current:
            config.current = name
        is_current = config.current == name
    session.output.message(
        f"context {name} was added and is the current one"
        if is_current
        else f"context {name} was added; to make it the current one: headrace context use {name}"
    )


def list_all(*, session: Injected) -> None:
    config = load_config()
    found = [
        ContextSummary(
            name=name,
            current=name == config.current,
            target=context.target,
            tls=context.uses_tls,
            tenant=context.tenant,
            credential=context.credential,
        )
        for name, context in sorted(config.contexts.items())
    ]
    session.output.values(found, contexts_table(found) if found else "no contexts")


def use(name: _Name, /, *, session: Injected) -> None:
    with changing_config() as config:
        config.find(name)
        config.current = name
    session.output.message(f"{name} is the current context")


def remove(name: _Name, /, *, session: Injected) -> None:
    with changing_config() as config:
        config.find(name)
        del config.contexts[name]
        if config.current == name:
            config.current = ""
    session.output.message(f"context {name} was removed")
