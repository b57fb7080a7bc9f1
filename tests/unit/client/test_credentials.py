"""Credentials: their headers, their renewal, and the streams that resume with a new credential."""

import asyncio
import traceback
from uuid import UUID

import grpc
import pytest

from headrace import (
    CallError,
    Client,
    DeadlineExceeded,
    InsecureConnection,
    JobFailed,
    PermissionDenied,
    QuotaExceeded,
    SyncClient,
    TenantSuspended,
    Unauthenticated,
)
from headrace.testing import FakeGateway

SECRET = "hr_abc_0123456789"
REMOTE = "gateway.example.com:50051"


class Provider:
    """A token provider that returns the given tokens, the last one repeatedly."""

    def __init__(self, *tokens):
        self.tokens = list(tokens)
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        # Concurrent calls of the client must share this call.
        await asyncio.sleep(0)
        return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]


def credentials(platform):
    return [call.credential for call in platform.received_calls]


# Arguments


@pytest.mark.parametrize("argument", ["token", "api_key"])
async def test_credential_is_sent_with_each_call(server, platform, argument):
    async with Client(server.target, **{argument: f" {SECRET}\n"}) as client:
        await client.stats()
        async with client.watch():
            pass

    assert credentials(platform) == [SECRET, SECRET]


@pytest.mark.parametrize("variable", ["HEADRACE_TOKEN", "HEADRACE_API_KEY"])
async def test_credential_defaults_to_the_environment(server, platform, monkeypatch, variable):
    monkeypatch.setenv(variable, SECRET)
    async with Client(server.target) as client:
        await client.stats()
    async with Client(server.target, token="explicit") as client:
        await client.stats()

    assert credentials(platform) == [SECRET, "explicit"]


async def test_tenant_and_metadata_are_sent_with_each_call(server):
    received = {}

    async def respond(request, context):
        received.update(context.invocation_metadata())
        return request

    handler = grpc.unary_unary_rpc_method_handler(respond)
    recorder = grpc.aio.server()
    recorder.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = recorder.add_insecure_port("127.0.0.1:0")
    await recorder.start()
    async with Client(
        f"127.0.0.1:{port}", api_key=SECRET, tenant="acme", metadata={"x-route": "blue"}
    ) as client:
        await client.queue_serving("mail")
    await recorder.stop(None)

    assert received["authorization"] == f"Bearer {SECRET}"
    assert (received["x-headrace-tenant"], received["x-route"]) == ("acme", "blue")


@pytest.mark.parametrize("target", [REMOTE, f"127.0.0.1:1,{REMOTE}", "10.0.0.1:50051"])
async def test_credential_in_plaintext_to_another_machine_is_rejected(target, monkeypatch):
    with pytest.raises(InsecureConnection, match=r"api_key would be sent to .* in plaintext"):
        Client(target, api_key=SECRET)
    with pytest.raises(ValueError, match="token_provider would be sent"):
        Client(target, token_provider=Provider("a"))
    monkeypatch.setenv("HEADRACE_TOKEN", SECRET)
    with pytest.raises(ValueError, match="HEADRACE_TOKEN would be sent"):
        Client(target)


@pytest.mark.parametrize("options", [{"insecure": True}, {"tls": True}])
async def test_credential_to_another_machine_needs_tls_or_consent(options):
    async with Client(REMOTE, api_key=SECRET, **options):
        pass


@pytest.mark.parametrize("target", ["localhost:1", "127.0.0.9:1", "[::1]:1", "unix:/tmp/headrace"])
async def test_credential_to_this_machine_needs_no_tls(target):
    async with Client(target, api_key=SECRET):
        pass


async def test_several_credentials_are_rejected(monkeypatch):
    with pytest.raises(ValueError, match="token and api_key are set"):
        Client(token="a", api_key="b")
    monkeypatch.setenv("HEADRACE_TOKEN", "a")
    monkeypatch.setenv("HEADRACE_API_KEY", "b")
    with pytest.raises(ValueError, match="HEADRACE_TOKEN and HEADRACE_API_KEY are set"):
        Client()


@pytest.mark.parametrize("value", ["", " ", "a\nb", "schlüssel"])
async def test_malformed_credential_is_rejected(value):
    with pytest.raises(ValueError, match="api_key is empty or has a character"):
        Client(api_key=value)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"authorization": "Bearer a"}, "use the argument token or api_key"),
        ({"x-headrace-tenant": "a"}, "use the argument tenant"),
        ({"X-Route": "a"}, "use lower-case letters"),
        ({"x-route-bin": "a"}, "the suffix `-bin`"),
        ([("x-route", "a\nb")], "metadata 'x-route' is empty or has a character"),
    ],
)
async def test_malformed_metadata_is_rejected(metadata, problem):
    with pytest.raises(ValueError, match=problem):
        Client(metadata=metadata)


# Secrecy


def full_report(error):
    """Return the traceback of an error with the local variables of each frame of the client."""
    stack = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = traceback.StackSummary.from_list(
        frame for frame in stack.stack if "/headrace/" in frame.filename
    )
    assert frames
    return "".join(frames.format()) + "".join(stack.format_exception_only())


async def test_errors_do_not_contain_the_credential(server, platform):
    platform.allow("another")
    async with Client(server.target, api_key=SECRET) as client:
        with pytest.raises(Unauthenticated) as rejected:
            await client.stats()
        with pytest.raises(Unauthenticated) as ended:
            async with client.watch():
                pass
        with pytest.raises(Unauthenticated) as submit_error:
            await client.submit("wait")
    with pytest.raises(ValueError, match="plaintext") as plaintext:
        Client(REMOTE, api_key=SECRET)
    with pytest.raises(ValueError, match="not printable") as malformed:
        Client(api_key=f"{SECRET}\n{SECRET}")

    async with Client(REMOTE) as anonymous:
        with pytest.raises(InsecureConnection) as plaintext_error:
            await anonymous.login("ada", SECRET)
    async with Client(server.target) as anonymous:
        with pytest.raises(CallError, match="Method not found") as unknown:
            await anonymous.login("ada", SECRET)

    for caught in (plaintext_error, unknown, rejected, ended, submit_error, plaintext, malformed):
        assert SECRET not in full_report(caught.value)
    assert SECRET not in repr(vars(client)) + repr(vars(client._calls._headers))


# Renewal


async def test_rejected_call_is_repeated_with_a_new_token(server, platform):
    platform.allow("new")
    provider = Provider("old", "new")
    async with Client(server.target, token_provider=provider) as client:
        await client.submit("wait")
        await client.stats()

    assert credentials(platform) == ["old", "new", "new"]
    assert len(platform.jobs) == 1


async def test_call_is_repeated_only_once(server, platform):
    platform.allow("other")
    provider = Provider("old", "older", "oldest")
    async with Client(server.target, token_provider=provider) as client:
        with pytest.raises(Unauthenticated):
            await client.stats()

    assert credentials(platform) == ["old", "older"]


async def test_rejected_key_is_not_repeated(server, platform):
    platform.allow("other")
    async with Client(server.target, api_key="old") as client:
        with pytest.raises(Unauthenticated, match="not valid") as caught:
            await client.stats()

    assert caught.value.refusal.reason == "UNAUTHENTICATED"
    assert credentials(platform) == ["old"]


async def test_concurrent_calls_share_a_renewal(server, platform):
    provider = Provider("old", "new")
    async with Client(server.target, token_provider=provider) as client:
        await asyncio.gather(*(client.stats() for _ in range(5)))
        assert provider.calls == 1
        platform.allow("new")
        await asyncio.gather(*(client.stats() for _ in range(5)))

    assert provider.calls == 2


async def test_cancelled_call_does_not_cancel_the_renewal_of_others(server):
    released = asyncio.Event()

    async def provide():
        await released.wait()
        return "a"

    async with Client(server.target, token_provider=provide) as client:
        calls = [asyncio.ensure_future(client.stats()) for _ in range(2)]
        await asyncio.sleep(0)
        calls[0].cancel()
        released.set()
        await calls[1]

    assert calls[0].cancelled()


async def test_error_of_the_provider_is_passed_on(server, platform):
    tokens = iter([LookupError("no identity"), "new"])

    async def provide():
        token = next(tokens)
        if isinstance(token, Exception):
            raise token
        return token

    async with Client(server.target, token_provider=provide) as client:
        with pytest.raises(LookupError, match="no identity"):
            await client.stats()
        await client.stats()

    assert credentials(platform) == ["new"]


async def test_slow_provider_exceeds_the_deadline(server):
    async def provide():
        await asyncio.Event().wait()

    async with Client(server.target, token_provider=provide, timeout=0.1) as client:
        with pytest.raises(DeadlineExceeded, match="token_provider"):
            await client.stats()


async def test_result_of_the_provider_must_be_a_token(server):
    async with Client(server.target, token_provider=Provider(b"bytes")) as client:
        with pytest.raises(TypeError, match="the result of token_provider is of type bytes"):
            await client.stats()


def test_synchronous_provider_is_called_in_a_thread():
    tokens = iter(["old", "new"])
    with (
        FakeGateway() as gateway,
        SyncClient(gateway.target, token_provider=lambda: next(tokens)) as client,
    ):
        gateway.allow("new")
        client.stats()

        assert [call.credential for call in gateway.calls] == ["old", "new"]


# Streams


async def test_job_stream_resumes_with_a_new_token(server, platform):
    provider = Provider("old", "new")
    async with Client(server.target, token_provider=provider) as client:
        job = await client.submit("wait")
        events = job.watch()
        seen = [await anext(events), await anext(events)]

        platform.revoke("old")
        platform.finish(job.id)
        seen += [event async for event in events]

    assert [event.seq for event in seen] == [1, 2, 3]
    assert (events.resumes, provider.calls) == (1, 2)


async def test_submitting_stream_resumes_with_a_new_token(server, platform):
    async with Client(server.target, token_provider=Provider("old", "new")) as client:
        events = client.submit_and_watch("wait")
        seen = [await anext(events), await anext(events)]

        platform.revoke("old")
        platform.finish(seen[0].job_id)
        seen += [event async for event in events]

    assert [event.seq for event in seen] == [1, 2, 3]
    assert len(platform.jobs) == 1


async def test_watch_resumes_with_a_new_token_without_a_gap(server, platform):
    async with (
        Client(server.target, token_provider=Provider("old", "new")) as client,
        Client(server.target, token="producer") as producer,
        client.watch(types=["wait"]) as watch,
    ):
        first = await producer.submit("wait")
        seen = [await anext(watch), await anext(watch)]
        platform.revoke("old")
        second = await producer.submit("wait")
        seen += [await anext(watch), await anext(watch)]

        assert [(event.job_id, event.seq) for event in seen] == [
            (first.id, 1),
            (first.id, 2),
            (second.id, 1),
            (second.id, 2),
        ]
        assert watch.resumes == 1


async def test_subscription_resumes_with_a_new_token(server, platform):
    async with Client(server.target, token_provider=Provider("old", "new")) as client:
        await client.create_subscription("billing", types=["wait"])
        async with client.subscribe("billing") as events:
            job = await client.submit("wait")
            seen = [await anext(events)]
            await events.ack()
            platform.revoke("old")
            platform.finish(job.id)
            seen += [await anext(events), await anext(events)]
            assert await events.ack()

    assert [event.seq for event in seen] == [1, 2, 3]


async def test_new_stream_is_repeated_with_a_new_token(server, platform):
    platform.allow("new")
    async with (
        Client(server.target, token_provider=Provider("old", "new")) as client,
        client.watch(),
    ):
        pass

    assert credentials(platform) == ["old", "new"]


async def test_stream_of_a_revoked_key_ends_with_its_cursor(server, platform):
    async with Client(server.target, api_key="old") as client:
        async with client.watch() as watch:
            job = await client.submit("wait")
            assert (await anext(watch)).seq == 1
            await anext(watch)
            platform.revoke("old")
            with pytest.raises(Unauthenticated, match="not valid"):
                await anext(watch)
        async with Client(server.target, api_key="new") as another:
            platform.finish(job.id)
            async with another.watch(cursor=watch.cursor) as resumed:
                seen = [await anext(resumed)]
                while seen[-1].seq < 3:
                    seen.append(await anext(resumed))


async def test_stream_of_a_changed_key_resumes_with_the_same_key(server, platform):
    async with Client(server.target, api_key="key") as client, client.watch() as watch:
        platform.end(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_CHANGED")
        await client.submit("wait")
        assert (await anext(watch)).seq == 1

    assert watch.resumes == 1
    assert set(credentials(platform)) == {"key"}


async def test_stream_resumes_after_an_error_of_the_provider(server, platform):
    tokens = iter(["old", LookupError("no identity"), "new"])

    async def provide():
        token = next(tokens)
        if isinstance(token, Exception):
            raise token
        return token

    async with Client(server.target, token_provider=provide) as client:
        job = await client.submit("wait")
        events = job.watch()
        seen = [await anext(events), await anext(events)]
        platform.revoke("old")
        platform.finish(job.id)
        with pytest.raises(LookupError):
            await anext(events)
        seen += [event async for event in events]

    assert [event.seq for event in seen] == [1, 2, 3]


async def test_closing_a_stream_ends_its_wait_for_the_provider(server, platform):
    requested = asyncio.Event()
    tokens = ["old"]

    async def provide():
        if not tokens:
            requested.set()
            await asyncio.Event().wait()
        return tokens.pop()

    async with Client(server.target, token_provider=provide) as client:
        job = await client.submit("wait")
        events = job.watch()
        await anext(events)
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        platform.revoke("old")
        await requested.wait()
        await events.aclose()

        with pytest.raises(StopAsyncIteration):
            await waiting


# Rejections


async def test_denied_call_names_the_missing_right(server, platform):
    platform.reject_with = (
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
    )
    platform.reject_metadata = {"right": "jobs:submit"}
    async with Client(server.target) as client:
        with pytest.raises(PermissionDenied) as caught:
            await client.submit("wait")

    assert caught.value.right == "jobs:submit"
    assert len(platform.received_calls) == 1


async def test_exceeded_quota_is_reported(server, platform):
    platform.reject_with = (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    platform.reject_metadata = {"quota": "waiting_jobs", "limit": "10", "used": "10"}
    async with Client(server.target) as client:
        with pytest.raises(QuotaExceeded) as caught:
            await client.submit("wait")
        with pytest.raises(QuotaExceeded):
            await anext(client.watch_job(str(UUID(int=1))))

    assert (caught.value.quota, caught.value.limit, caught.value.used) == ("waiting_jobs", 10, 10)
    assert len(platform.received_calls) == 2


async def test_resumed_stream_waits_for_its_quota(server, platform):
    async with Client(server.target) as client:
        job = await client.submit("wait")
        events = job.watch()
        seen = [await anext(events), await anext(events)]
        waiting = asyncio.ensure_future(anext(events))
        platform.reject_with = (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        platform.cut()
        await platform.until(lambda: len(platform.received_calls) > 2)
        platform.reject_with = None
        platform.finish(job.id)
        seen += [await waiting, *[event async for event in events]]

    assert [event.seq for event in seen] == [1, 2, 3]


async def test_suspended_tenant_is_reported(server, platform):
    platform.reject_with = (grpc.StatusCode.PERMISSION_DENIED, "TENANT_SUSPENDED")
    platform.reject_metadata = {"tenant": "acme"}
    async with Client(server.target) as client:
        with pytest.raises(TenantSuspended) as caught:
            await client.stats()

    assert caught.value.tenant == "acme"


async def test_withheld_error_is_marked(server, platform, run):
    async with Client(server.target) as client:
        job = await client.submit("fails")
        for message in (platform.jobs[job.id], platform.events(job.id)[-1]):
            message.error.message = ""
            message.withheld_fields.append("error.message")
        with pytest.raises(JobFailed, match="failed: ValueError: the message is withheld"):
            await job.result()

    assert (await run("events", job.id)).out.rstrip().endswith("ValueError: withheld")
    assert "withheld error.message" in " ".join((await run("get", job.id)).out.split())


async def test_withheld_result_raises_permission_denied(server, platform):
    async with Client(server.target) as client:
        job = await client.submit("square_sum", {"data": [1]})
        platform.jobs[job.id].ClearField("result")
        platform.jobs[job.id].withheld_fields.append("result")
        with pytest.raises(PermissionDenied, match="withheld") as caught:
            await job.result()

    assert caught.value.right == "payload:read"
