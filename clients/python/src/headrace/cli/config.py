"""The configuration file with the contexts of the command line."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, TypeAlias

from headrace.cli.usage import UsageError

# The permission bits of users other than the owner.
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """An installation and the credential for it.

    Args:
        target: the address of the gateway, or several addresses separated by commas.
        tls: whether to use TLS; any file below implies TLS.
        tls_ca, tls_cert, tls_key: the paths of PEM files; see `headrace.TLS`.
        insecure: whether to send the credential in plaintext to another machine.
        tenant: the tenant of all calls; empty for the tenant of the credential.
        api_key: an API key.
        token: an access token of an external issuer.
        username: the user who has logged in.
        access_token, access_expire_time, refresh_token: the tokens of the session of that user.
    """

    target: str = ""
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    insecure: bool = False
    tenant: str = ""
    api_key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    username: str = ""
    access_token: str = field(default="", repr=False)
    access_expire_time: str = ""
    refresh_token: str = field(default="", repr=False)

    @property
    def uses_tls(self) -> bool:
        """Whether connections use TLS."""
        return bool(self.tls or self.tls_ca or self.tls_cert or self.tls_key)

    @property
    def credential(self) -> str:
        """A description of the credential without secrets."""
        if self.refresh_token:
            return f"user {self.username}"
        if self.api_key:
            # A key is `hr_ID_SECRET`.
            parts = self.api_key.split("_")
            return f"API key {parts[1]}" if len(parts) == 3 else "API key"
        if self.token:
            return "token"
        return "certificate" if self.tls_cert else "none"


_KEYS: Final = {known.name: type(known.default) for known in fields(Context)}


@dataclass(slots=True)
class Config:
    """The contexts by name, and the name of the current one; empty for none."""

    current: str = ""
    contexts: dict[str, Context] = field(default_factory=dict)

    def find(self, name: str) -> Context:
        """Return a context.

        Raises:
            UsageError: the context does not exist.
        """
        if name not in self.contexts:
            known = ", ".join(self.contexts) or "none"
            raise UsageError(f'there is no context "{name}"; the contexts are: {known}')
        return self.contexts[name]


def config_path() -> Path:
    """Return the path of the file.

    Raises:
        UsageError: this user has no home folder.
    """
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        # The XDG specification ignores relative paths.
        base = Path(folder) if Path(folder).is_absolute() else Path.home() / ".config"
    except RuntimeError as error:
        raise UsageError("this user has no home folder; set XDG_CONFIG_HOME") from error
    return base / "headrace" / "config.toml"


def is_readable() -> bool:
    """Return whether this user has a configuration file and may read it."""
    try:
        return os.access(config_path(), os.R_OK)
    except UsageError:
        return False


def load_config() -> Config:
    """Read the file; without a file, return an empty configuration.

    Raises:
        UsageError: others can read the file, or its content is not valid.
    """
    path = config_path()
    try:
        with path.open("rb") as file:
            _check_permissions(path, os.fstat(file.fileno()))
            document = tomllib.load(file)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # The error does not contain the text of the file.
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    return _parse(path, document)


@contextmanager
def changing_config() -> Iterator[Config]:
    """Yield the configuration, and write it to the file after the block.

    Concurrent changes wait for each other.

    Raises:
        UsageError: the file cannot be read or written.
    """
    path = config_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            config = load_config()
            yield config
            _write(path, config)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl  # noqa: PLC0415 - not available on Windows
    except ModuleNotFoundError:
        yield
        return
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Closing the file releases the lock.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _write(path: Path, config: Config) -> None:
    """Replace the file, which only its owner can read."""
    lines = [f"current = {_quoted(config.current)}"] if config.current else []
    for name, context in config.contexts.items():
        lines += ["", f"[contexts.{_quoted(name)}]"]
        for key in _KEYS:
            if value := getattr(context, key):
                lines.append(f"{key} = {'true' if value is True else _quoted(value)}")
    # If the path is a symbolic link, keep it.
    real = path.resolve()
    new = real.with_name(f".{real.name}.{token_hex(8)}")
    try:
        number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write("\n".join([*lines, ""]))
        new.replace(real)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _quoted(text: str) -> str:
    """Return a TOML basic string: a JSON string with the character DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_permissions(path: Path, status: os.stat_result) -> None:
    if os.name != "posix":
        return
    if status.st_uid not in {os.geteuid(), 0}:
        raise UsageError(f"{path} belongs to another user; it must belong to you")
    if status.st_mode & _OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise UsageError(
            f"{path} contains credentials, and other users may access it (mode {mode:04o}); run: "
            f"chmod 600 {path}"
        )


_Table: TypeAlias = Mapping[str, Any]


def _parse(path: Path, document: _Table) -> Config:
    """Return the configuration of a TOML document.

    Raises:
        UsageError: a key is unknown or has a value of the wrong type.
    """
    unknown = document.keys() - {"current", "contexts"}
    current, contexts = document.get("current", ""), document.get("contexts", {})
    if unknown or not isinstance(current, str) or not isinstance(contexts, dict):
        raise UsageError(f"{path} must have the key `current` and the tables `contexts.NAME` only")
    return Config(
        current=current,
        contexts={name: _parse_context(path, name, table) for name, table in contexts.items()},
    )


def _parse_context(path: Path, name: str, table: Any) -> Context:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: contexts.{name} must be a table")
    for key, value in table.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise UsageError(
                f"{path}: contexts.{name} has the unknown key `{key}`; use {', '.join(_KEYS)}"
            )
        if type(value) is not kind:
            wanted = "true or false" if kind is bool else "a string"
            raise UsageError(f"{path}: contexts.{name}.{key} must be {wanted}")
    return Context(**table)
