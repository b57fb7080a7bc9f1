"""Contexts of the command line: the configuration file and its credentials."""

import stat
import tomllib

import pytest

from headrace.cli.config import Config, Context, changing_config, load_config
from headrace.cli.connection import Options, connection
from headrace.cli.usage import UsageError

KEY = "hr_k3vbq6zq5t2m7wjx4n2a_0123456789"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The configuration folder of each test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for variable in ("TARGET", "CONTEXT", "TOKEN", "API_KEY"):
        monkeypatch.delenv(f"HEADRACE_{variable}", raising=False)
    return tmp_path


@pytest.fixture
def path(folder):
    return folder / "headrace" / "config.toml"


@pytest.fixture
def headrace(run, folder):
    """A function that runs the command line with the configuration of the test."""

    async def headrace(*args, stdin=None, target="", **env):
        env = {"XDG_CONFIG_HOME": str(folder), "HEADRACE_TARGET": target, **env}
        return await run(*args, stdin=stdin, env=env)

    return headrace


def write(path, text, mode=0o600):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def store(current="", **contexts):
    with changing_config() as config:
        config.current = current
        config.contexts.update(contexts)


# The file


def test_missing_file_has_no_contexts():
    assert load_config() == Config()


def test_written_file_is_private_and_readable(path):
    context = Context(
        target="gateway:1", tls=True, tls_ca='/a "b"\\c\x7f\n', tenant="größe", api_key=KEY
    )
    store("prod", prod=context, **{"a.b c": Context(target="local:1")})

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    loaded = load_config()
    assert loaded.current == "prod"
    assert loaded.contexts == {"prod": context, "a.b c": Context(target="local:1")}
    assert tomllib.loads(path.read_text())["contexts"]["prod"]["tls"] is True


def test_failed_change_leaves_the_file_unchanged(path):
    store("prod", prod=Context(target="gateway:1"))
    before = path.read_text()

    with pytest.raises(LookupError), changing_config() as config:
        config.current = ""
        raise LookupError

    assert path.read_text() == before
    assert sorted(child.name for child in path.parent.iterdir()) == ["config.lock", "config.toml"]


def test_change_keeps_a_symbolic_link(path, folder):
    real = folder / "dotfiles.toml"
    write(real, "")
    path.parent.mkdir()
    path.symlink_to(real)

    store(prod=Context(target="gateway:1"))

    assert path.is_symlink()
    assert "gateway:1" in real.read_text()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_file_that_others_can_access_is_rejected(path, mode):
    write(path, 'current = "prod"', mode)

    with pytest.raises(UsageError, match=rf"mode {mode:04o}\); run: chmod 600 "):
        load_config()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("current = ", "not valid TOML"),
        ("currant = 'prod'", "must have the key `current`"),
        ("current = 1", "must have the key `current`"),
        ("contexts = 1", "must have the key `current`"),
        ("contexts.prod = 1", "contexts.prod must be a table"),
        ("contexts.prod.tagret = 'a'", "contexts.prod has the unknown key `tagret`"),
        ("contexts.prod.tls = 'yes'", "contexts.prod.tls must be true or false"),
        ("contexts.prod.target = 1", "contexts.prod.target must be a string"),
    ],
)
def test_malformed_file_is_rejected(path, text, problem):
    write(path, text)

    with pytest.raises(UsageError, match=problem):
        load_config()


def test_repr_hides_secrets():
    context = Context(api_key=KEY, token="t0", access_token="t1", refresh_token="t2")

    assert not {KEY, "t0", "t1", "t2"} & set(repr(context).replace("'", " ").split())


# The choice of the context


def chosen(**options):
    return connection(Options(**options))


def test_current_context_is_used_without_a_target():
    store("prod", prod=Context(target="gateway:1", api_key=KEY))

    assert chosen().name == "prod"
    assert chosen().context.api_key == KEY


def test_another_target_selects_no_context(monkeypatch):
    store("prod", prod=Context(target="gateway:1", api_key=KEY))

    assert chosen(target="other:1").context == Context(target="other:1")
    monkeypatch.setenv("HEADRACE_TARGET", "other:1")
    assert chosen().context == Context(target="other:1")
    monkeypatch.setenv("HEADRACE_TARGET", "gateway:1")
    assert chosen().name == "prod"


def test_named_context_overrides_the_environment(monkeypatch):
    store("prod", prod=Context(target="gateway:1"), stage=Context(target="stage:1", api_key=KEY))
    monkeypatch.setenv("HEADRACE_TARGET", "other:1")
    monkeypatch.setenv("HEADRACE_TOKEN", "token")

    assert chosen(context="stage").context == Context(target="stage:1", api_key=KEY)
    monkeypatch.setenv("HEADRACE_CONTEXT", "stage")
    assert chosen().name == "stage"


def test_environment_credential_overrides_current_context(monkeypatch):
    store("prod", prod=Context(target="gateway:1", api_key=KEY))
    monkeypatch.setenv("HEADRACE_API_KEY", "another")

    assert chosen().context == Context(target="gateway:1")


def test_options_replace_the_values_of_a_context():
    store(prod=Context(target="gateway:1", tenant="a", tls_ca="/ca"))

    context = chosen(context="prod", tenant="b", insecure=True).context
    assert context == Context(target="gateway:1", tenant="b", tls_ca="/ca", insecure=True)


def test_unknown_context_is_rejected():
    store(prod=Context(target="gateway:1"))

    with pytest.raises(UsageError, match='no context "prd"; the contexts are: prod'):
        chosen(context="prd")


# The commands


async def test_added_context_is_used(headrace, server, platform, path):
    platform.allow(KEY)
    added = await headrace(
        *("context", "add", "prod", "--target", server.target, "--api-key-file", "-"),
        stdin=f"{KEY}\n",
    )
    assert (added.code, added.out) == (0, "")
    assert "prod was added and is the current one" in added.err

    assert (await headrace("stats")).code == 0
    assert (await headrace("stats", target=server.target)).code == 0
    port = server.target.partition(":")[2]
    assert (await headrace("stats", target=f"localhost:{port}")).code == 4
    assert [call.credential for call in platform.received_calls] == [KEY, KEY, ""]
    assert KEY in path.read_text()


async def test_context_list_shows_no_secrets(headrace, folder):
    (folder / "key").write_text(KEY)
    options = ("--tls", "--tenant", "acme", "--api-key-file", str(folder / "key"))
    await headrace("context", "add", "prod", "--target", "gateway:1", *options)
    await headrace("context", "add", "local", "--target", "127.0.0.1:1")

    listed = await headrace("context", "list")
    assert [line.split() for line in listed.out.splitlines()[1:]] == [
        ["local", "127.0.0.1:1", "no", "-", "none"],
        ["*", "prod", "gateway:1", "yes", "acme", "API", "key", "k3vbq6zq5t2m7wjx4n2a"],
    ]
    as_json = await headrace("context", "list", "-o", "json")
    assert as_json.json[1]["credential"] == "API key k3vbq6zq5t2m7wjx4n2a"
    assert KEY not in listed.out + as_json.out


async def test_context_use_and_remove_change_the_current_context(headrace):
    await headrace("context", "add", "a", "--target", "a:1")
    await headrace("context", "add", "b", "--target", "b:1")
    assert load_config().current == "a"
    assert (await headrace("context", "use", "b")).code == 0
    assert load_config().current == "b"
    assert (await headrace("context", "remove", "b")).code == 0
    assert load_config() == Config(contexts={"a": Context(target="a:1")})
    assert (await headrace("context", "use", "b")).code == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("new",), "use --target"),
        (("old", "--target", "a:1"), 'context "old" already exists'),
        (("new", "--target", "a:1", "--tls-cert", "a"), "use both --tls-cert and --tls-key"),
        (("new", "--target", "a:1", "--api-key-file", "nowhere"), "cannot read nowhere"),
        (("new", "--target", "a:1", "--api-key-file", "-"), "the api key is missing"),
        (
            ("new", "--target", "a:1", "--api-key-file", "a", "--token-file", "b"),
            "use either --api-key-file or --token-file",
        ),
    ],
)
async def test_invalid_context_is_rejected(headrace, arguments, problem):
    store(old=Context(target="old:1"))

    ended = await headrace("context", "add", *arguments, stdin="")

    assert ended.code == 2
    assert problem in ended.err
    assert list(load_config().contexts) == ["old"]


async def test_readable_configuration_stops_the_command(headrace, server, platform, path):
    write(path, f'current = "prod"\n[contexts.prod]\ntarget = "{server.target}"', 0o644)

    ended = await headrace("stats")
    assert ended.code == 2
    assert "chmod 600" in ended.err
    path.unlink()
    assert (await headrace("stats", target=server.target)).code == 0


async def test_key_is_not_sent_in_plaintext_to_another_machine(headrace):
    store("prod", prod=Context(target="gateway.example.com:1", api_key=KEY))

    ended = await headrace("stats")

    assert ended.code == 2
    assert "in plaintext" in ended.err
    assert KEY not in ended.err


@pytest.mark.parametrize(
    "command", [("login", "ada"), ("users", "create", "ada", "--choose-password")]
)
async def test_password_is_not_sent_in_plaintext_to_another_machine(headrace, path, command):
    ended = await headrace(*command, "--target", "gateway.example.com:1", stdin="secret 1\n")

    assert ended.code == 2
    assert "the password would be sent to gateway.example.com:1 in plaintext" in ended.err
    assert "Traceback" not in ended.err
    assert "secret" not in ended.err
    assert not path.exists()


async def test_rejected_credential_prints_a_hint(headrace, server, platform):
    platform.allow(KEY)

    ended = await headrace("stats", target=server.target, HEADRACE_API_KEY="another")

    assert ended.code == 4
    assert ended.err.splitlines() == [
        "error: the credential is not valid",
        "try: headrace login, --context, or set HEADRACE_API_KEY or HEADRACE_TOKEN",
    ]
