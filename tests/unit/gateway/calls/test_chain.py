"""The chain verifies the order of its links and runs them before the servicer."""

from __future__ import annotations

import typing
from collections.abc import Awaitable
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message

from headrace_core.runtime.settings import Settings
from headrace_gateway.access.quotas import TenantQuotas
from headrace_gateway.calls.authorize import Sessions
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.chain import Chain, ChainError, Link
from headrace_gateway.calls.drain import Drain
from headrace_gateway.calls.errors import Failures
from headrace_gateway.calls.exchange import Exchange, Method, Proceed
from headrace_gateway.calls.meter import Meter
from headrace_gateway.calls.order import FOREIGN_LINKS, SERVICER_NEEDS, build_chain
from headrace_gateway.calls.traffic import Traffic
from headrace_gateway.grpc.handlers import HandlerServicer
from headrace_gateway.grpc.jobs import JobServicer
from headrace_gateway.grpc.server import HANDLERS, JOBS, SUBSCRIPTIONS, TENANTS
from headrace_gateway.grpc.subscriptions import SubscriptionServicer
from headrace_gateway.grpc.tenants import TenantServicer
from headrace_gateway.streams import Gauges


class RecordingLink:
    """A link that records its name for each call."""

    def __init__(self, name: str, *needs: str, notes: list[str] | None = None) -> None:
        self.name, self.needs = name, needs
        self.notes = [] if notes is None else notes

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        def note(exchange: Exchange) -> Awaitable[Message | None]:
            self.notes.append(self.name)
            return proceed(exchange)

        return note


def chain(*links: Any, needs: tuple[str, ...] = ()) -> Chain:
    return Chain(typing.cast(list[Link], links), needs=needs)


@pytest.fixture
def gateway_links() -> tuple[Link, ...]:
    """The gateway's links, in order."""
    return build_chain(
        Settings(),
        drain=Drain(),
        counts=Gauges(),
        authenticator=None,
        sessions=Sessions(),
        limiter=TenantQuotas(),
        traffic=Traffic(),
        meter=Meter(),
        failures=Failures(),
    ).links


def test_link_without_a_required_link_is_rejected() -> None:
    with pytest.raises(ChainError, match="the link 'errors' is missing; the link 'decode' needs"):
        chain(RecordingLink("decode", "errors"))


def test_link_before_a_required_link_is_rejected() -> None:
    with pytest.raises(ChainError, match="the link 'decode' must be after the link 'errors'"):
        chain(RecordingLink("decode", "errors"), RecordingLink("errors"))


def test_link_name_used_twice_is_rejected() -> None:
    with pytest.raises(ChainError, match="the link 'errors' appears twice"):
        chain(RecordingLink("errors"), RecordingLink("errors"))


def test_chain_without_a_servicer_link_is_rejected() -> None:
    with pytest.raises(ChainError, match="the link 'authenticate' is missing; servicers need it"):
        chain(RecordingLink("errors"), needs=("errors", "authenticate"))


def test_unknown_link_is_rejected() -> None:
    with pytest.raises(ChainError, match="the link 'quota' is missing"):
        chain(RecordingLink("errors")).only("errors", "quota")


def test_subchain_without_a_required_link_is_rejected() -> None:
    full_chain = chain(RecordingLink("errors"), RecordingLink("decode", "errors"))
    with pytest.raises(ChainError, match="the link 'errors' is missing"):
        full_chain.only("decode")


@pytest.mark.parametrize("name", SERVICER_NEEDS)
def test_gateway_chain_without_a_link_is_rejected(
    gateway_links: tuple[Link, ...], name: str
) -> None:
    rest = [link for link in gateway_links if link.name != name]
    with pytest.raises(ChainError, match=f"the link '{name}' is missing"):
        Chain(rest, needs=SERVICER_NEEDS)


def test_gateway_chain_declares_every_link_once(gateway_links: tuple[Link, ...]) -> None:
    assert sorted(link.name for link in gateway_links) == sorted(SERVICER_NEEDS)
    foreign = Chain(gateway_links).only(*FOREIGN_LINKS)
    assert [link.name for link in foreign.links] == list(FOREIGN_LINKS)


class _Context:
    """A gRPC context with only the methods that an Exchange calls."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def write(self, message: Message) -> None:
        """Do nothing."""


async def test_links_run_in_order_before_the_servicer() -> None:
    notes: list[str] = []

    async def behavior(_: Any, __: Any) -> Any:
        notes.append("servicer")

    handle = chain(RecordingLink("first", notes=notes), RecordingLink("second", notes=notes)).wrap(
        Method(path="/a.B/C", request_class=Message, foreign=True), behavior
    )
    assert notes == []
    for _ in range(2):
        await handle(b"", typing.cast(Any, _Context()))
    assert notes == ["first", "second", "servicer"] * 2


@pytest.mark.parametrize(
    ("service", "servicer"),
    [
        (JOBS, JobServicer),
        (HANDLERS, HandlerServicer),
        (SUBSCRIPTIONS, SubscriptionServicer),
        (TENANTS, TenantServicer),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_servicers_have_the_methods_of_their_contract(service: Any, servicer: type) -> None:
    for method in service.methods:
        hints = typing.get_type_hints(getattr(servicer, method.name))
        response = hints["return"]
        if method.server_streaming:
            response = typing.get_args(response)[0]
        assert hints["request"] is message_factory.GetMessageClass(method.input_type)
        assert response is message_factory.GetMessageClass(method.output_type)
        assert hints["call"] is Call
