"""Clients in processes that fork, are monkey-patched or run several event loops."""

import asyncio
import socket
import sys
import textwrap
import urllib.error
import urllib.request
from contextlib import asynccontextmanager

import pytest

from headrace import Client, WrongEventLoop
from headrace._calls import Calls
from headrace._gateways import Gateways
from headrace._timing import Timing
from headrace.errors import DeadlineExceeded

# Time limit for a program, in seconds. The tested operation either ends at once or never.
TIME_LIMIT_S = 60

FORK_HELPERS = """
    import gc, os, signal, sys, threading
    import headrace
    from headrace import Client, SyncClient

    def call(use):
        try:
            return type(use()).__name__
        except headrace.HeadraceError as error:
            return type(error).__name__

    def child(use):
        pid = os.fork()
        if pid == 0:
            # A hang ends with SIGALRM.
            signal.alarm(20)
            print("child:", call(use), flush=True)
            sys.exit(0)
        print("parent:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture
def python(server, tmp_path):
    """A function that runs a program in a separate process and returns its output lines."""

    async def python(program, *, before="", env=None, code=0):
        text = textwrap.dedent(before) + textwrap.dedent(program)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error::ResourceWarning", "-c", text),
            env={"HEADRACE_TARGET": server.target, **(env or {})},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(TIME_LIMIT_S):
            out, err = await process.communicate()
        assert process.returncode == code, err.decode()
        assert b"Traceback" not in err, err.decode()
        return out.decode().splitlines()

    return python


async def test_forked_child_uses_a_client_that_never_connected(python):
    program = """
        client = SyncClient()
        child(client.ping)
        print(call(client.ping))
    """
    lines = await python(program, before=FORK_HELPERS)

    assert lines == ["child: timedelta", "parent: 0", "timedelta"]


async def test_forked_child_of_a_connected_client_gets_an_error(python):
    program = """
        import asyncio
        client = SyncClient()
        job = client.submit("wait")
        events = job.watch()
        next(events), next(events)
        watch = client.watch().__enter__()
        child(client.ping)
        child(SyncClient().ping)
        child(lambda: asyncio.run(Client().ping()))
        child(job.result)
        child(lambda: next(events))
        child(lambda: next(watch))
        # The parent and its streams continue.
        print(call(client.ping))
        job.cancel()
        print(next(watch).type, next(events).type)
    """
    lines = await python(program, before=FORK_HELPERS)

    assert lines == ["child: ForkedProcess", "parent: 0"] * 6 + [
        "timedelta",
        "CANCEL_REQUESTED CANCEL_REQUESTED",
    ]


async def test_forked_child_of_a_busy_client_ends_with_an_error(python):
    program = """
        client = SyncClient()
        client.ping()
        def busy():
            while not done:
                client.ping()
        done = False
        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            child(client.ping)
        done = True
        for thread in threads:
            thread.join()
        client.close()
    """
    lines = await python(program, before=FORK_HELPERS)

    assert lines == ["child: ForkedProcess", "parent: 0"] * 5


async def test_forked_child_may_close_inherited_objects(python):
    program = """
        with SyncClient() as client:
            job = client.submit("wait")
            with client.watch() as watch:
                events = job.watch()
                next(events)
                pid = os.fork()
                if pid == 0:
                    signal.alarm(20)
                    events.close()
                    del events, job
                    gc.collect()
                    # The exit leaves both blocks.
                    sys.exit(3)
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                job.cancel()
                print(next(watch).type)
    """
    lines = await python(program, before=FORK_HELPERS)

    assert lines == ["3", "CANCEL_REQUESTED"]


async def test_fork_in_a_coroutine_gets_an_error(python):
    program = """
        import asyncio
        async def main():
            async with Client() as client:
                await client.ping()
                pid = os.fork()
                if pid == 0:
                    signal.alarm(20)
                    try:
                        await client.ping()
                    except headrace.ForkedProcess:
                        os._exit(4)
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                await client.ping()
        asyncio.run(main())
    """
    assert await python(program, before=FORK_HELPERS) == ["4"]


async def test_fork_after_grpc_aio_without_a_client_gets_an_error(python):
    program = """
        import asyncio, grpc
        async def main():
            async with grpc.aio.insecure_channel(os.environ["HEADRACE_TARGET"]) as channel:
                await channel.channel_ready()
                child(SyncClient().ping)
        asyncio.run(main())
    """
    assert await python(program, before=FORK_HELPERS) == ["child: ForkedProcess", "parent: 0"]


async def test_multiprocessing_forks_get_an_error_and_spawns_work(python, tmp_path):
    module = tmp_path / "work.py"
    module.write_text(
        textwrap.dedent("""
            from headrace import HeadraceError, SyncClient

            client = SyncClient()

            def ping(_):
                try:
                    return type(client.ping()).__name__
                except HeadraceError as error:
                    return type(error).__name__
        """)
    )
    program = """
        import multiprocessing, sys
        sys.path.insert(0, "")
        import work
        def pool(method):
            with multiprocessing.get_context(method).Pool(2) as pool:
                print(method, *pool.map(work.ping, range(2)), flush=True)
        pool("fork")
        work.client.ping()
        pool("fork")
        pool("spawn")
        pool("forkserver")
        work.client.ping()
    """
    lines = await python(program, env={"PYTHONPATH": str(tmp_path)})

    assert lines == [
        "fork timedelta timedelta",
        "fork ForkedProcess ForkedProcess",
        "spawn timedelta timedelta",
        "forkserver timedelta timedelta",
    ]


async def test_pytest_xdist_workers_use_a_client_of_their_module(server, tmp_path):
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            import pytest
            from headrace import SyncClient

            client = SyncClient()
            client.ping()

            @pytest.mark.parametrize("n", range(4))
            def test_it(n):
                assert client.submit("square_sum", {"data": [n]}).result(timeout=20) == n * n
        """)
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "."),
        env={"HEADRACE_TARGET": server.target},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(TIME_LIMIT_S):
        out, _ = await process.communicate()

    assert b"4 passed" in out


APPLICATION = """
    import os
    from headrace import HeadraceError, SyncClient

    client = SyncClient()
    loaded_in = os.getpid()
    {when_loaded}

    def application(environ, start_response):
        try:
            text = str(client.submit("square_sum", {{"data": [3]}}).result(timeout=20))
        except HeadraceError as error:
            text = type(error).__name__
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{{text}} {{os.getpid() != loaded_in}}".encode()]
"""


@asynccontextmanager
async def gunicorn(server, folder, *options, when_loaded="pass"):
    """Run an application under gunicorn; yield the process and the URL."""
    (folder / "app.py").write_text(textwrap.dedent(APPLICATION).format(when_loaded=when_loaded))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gunicorn", "--workers", "2", "--no-control-socket"),
            # By default, stopping a worker during its start takes half a minute.
            *("--graceful-timeout", "1", "--bind"),
            *(f"fd://{listener.fileno()}", *options, "app:application"),
            env={"HEADRACE_TARGET": server.target, "PATH": "/usr/bin:/bin"},
            cwd=folder,
            pass_fds=[listener.fileno()],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.terminate()
                await process.communicate()


async def response_bodies(url, count=4):
    def get():
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=TIME_LIMIT_S) as response:
            return response.read().decode()

    return {await asyncio.to_thread(get) for _ in range(count)}


@pytest.mark.parametrize("options", [[], ["--preload"], ["--preload", "-k", "gthread"]])
async def test_gunicorn_workers_use_a_client_of_the_module(server, tmp_path, options):
    async with gunicorn(server, tmp_path, *options) as (_, url):
        found = await response_bodies(url)

    assert found == {f"9 {'--preload' in options}"}


async def test_gunicorn_preloading_a_connection_gets_an_error(server, tmp_path):
    loading = gunicorn(server, tmp_path, "--preload", when_loaded="client.ping()")
    async with loading as (_, url):
        found = await response_bodies(url)

    assert found == {"ForkedProcess True"}


async def test_gunicorn_with_gevent_is_rejected(server, tmp_path):
    async with gunicorn(server, tmp_path, "-k", "gevent") as (process, _):
        async with asyncio.timeout(TIME_LIMIT_S):
            out, _ = await process.communicate()

    assert process.returncode != 0
    assert b"MonkeyPatched: gevent has replaced thread" in out
    assert b"gunicorn -k gthread" in out


async def test_gunicorn_with_gevent_and_preload_gets_an_error(server, tmp_path):
    # The client is created before gevent patches the worker.
    async with gunicorn(server, tmp_path, "--preload", "-k", "gevent") as (_, url):
        found = await response_bodies(url)

    assert found == {"MonkeyPatched True"}


@pytest.mark.parametrize(
    "patch",
    [
        "from gevent import monkey; monkey.patch_all()",
        "from gevent import monkey; monkey.patch_all(thread=False)",
        "from gevent import monkey; monkey.patch_thread()",
        "import eventlet; eventlet.monkey_patch()",
    ],
)
async def test_monkey_patched_process_is_rejected(python, patch):
    program = f"""
        {patch}
        import headrace
        for client in (headrace.Client, headrace.SyncClient):
            try:
                client()
            except headrace.MonkeyPatched as error:
                print(error)
    """
    lines = await python(program)

    assert len(lines) == 2
    for line in lines:
        assert " has replaced " in line
        assert "gunicorn -k gthread" in line


async def test_client_works_with_unpatched_gevent(python):
    program = "import gevent.monkey, headrace; print(headrace.SyncClient().ping())"

    assert len(await python(program)) == 1


async def test_sync_client_works_in_a_running_event_loop(python):
    # For example, in a notebook.
    program = """
        import asyncio, headrace
        async def main():
            with headrace.SyncClient() as client:
                print(client.submit("square_sum", {"data": [3]}).result())
            async with headrace.Client() as client:
                print(await (await client.submit("square_sum", {"data": [4]})).result())
        asyncio.run(main())
    """
    assert await python(program) == ["9", "16"]


def loop_program(client):
    async def ping():
        await client.ping()

    return ping


async def test_call_from_another_event_loop_is_rejected(server):
    def run():
        client = Client(server.target)
        asyncio.run(loop_program(client)())
        with pytest.raises(WrongEventLoop) as caught:
            asyncio.run(loop_program(client)())
        # The client of a closed loop can be closed from any loop.
        asyncio.run(client.close())
        return str(caught.value)

    message = await asyncio.to_thread(run)

    assert "closed=True" in message
    assert "of thread 'asyncio_0'" in message
    assert "SyncClient" in message


async def test_call_from_another_threads_loop_is_rejected(server):
    async with Client(server.target) as client:
        job = await client.submit("wait")
        events = job.watch()
        assert [(await anext(events)).seq for _ in range(2)] == [1, 2]
        watch = client.watch()

        def run():
            for call in (client.ping, client.close, events.__anext__, watch.__aenter__):
                with pytest.raises(WrongEventLoop, match="'MainThread'"):
                    asyncio.run(as_coroutine(call))

        await asyncio.to_thread(run)
        await job.cancel()
        assert (await anext(events)).seq == 3


async def as_coroutine(call):
    await call()


async def test_call_stuck_in_grpc_is_cancelled():
    gateways = Gateways(["127.0.0.1:1"])
    calls = Calls(
        gateways=gateways,
        timeout=0.05,
        retries=0,
        resume_timeout=0,
        timing=Timing(grace_period=0.05),
    )

    async def stuck(request, *, timeout, **_):
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match="has not ended"):
        await calls.unary(lambda _: stuck, None)
    await gateways.close()
