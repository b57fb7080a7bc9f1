"""Import a worker's handlers, from named modules and from entry points of installed packages.

A package offers handlers through an entry point in the group `headrace.handlers` that names
a module. Headrace's built-in handlers are such a package, `headrace-handlers`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

import structlog

from headrace_worker.api.registry import RegisteredHandler, Registry, registry

_GROUP = "headrace.handlers"
# HEADRACE_BUILTIN_HANDLERS selects the entry points of this distribution by name.
_BUILTIN = "headrace-handlers"

_log = structlog.get_logger()


class MissingPackages(ImportError):
    """Some packages that a handler module needs are not installed.

    Attributes:
        packages: the import names of the missing packages.
        install: the requirement that installs them.
    """

    def __init__(self, packages: Sequence[str], install: str) -> None:
        super().__init__(f"{', '.join(packages)} not found; install {install}")
        self.packages = tuple(packages)
        self.install = install


def require_packages(*packages: str, install: str) -> None:
    """Skip the module of an entry point unless its packages are installed.

    Call this in the module, before it imports any of the packages.

    Args:
        packages: the import names of the packages.
        install: the requirement that installs them, such as `acme-jobs[reports]`.

    Raises:
        MissingPackages: at least one package is not installed.
    """
    if missing := [package for package in packages if find_spec(package) is None]:
        raise MissingPackages(missing, install)


def load_handlers(
    modules: Sequence[str] = (), *, builtins: Sequence[str] | None = None
) -> Registry:
    """Import the built-in handlers, the modules in `modules`, and handlers of installed packages.

    If an entry point raises `MissingPackages`, its handlers are skipped and a log line is written.

    Args:
        modules: the names of handler modules.
        builtins: names of built-in handlers; None for all of them.

    Returns:
        The registry of this process.

    Raises:
        ImportError: a module cannot be imported.
    """
    builtin, external = _installed_entry_points()
    for name in builtin if builtins is None else builtins:
        if entry_point := builtin.get(name):
            _load(entry_point, is_named=builtins is not None)
        else:
            _log.warning("handler_not_installed", handler=name, advice=f"install {_BUILTIN}")
    for module in modules:
        _import(module)
    for entry_point in external:
        _load(entry_point, is_named=False)
    return registry


def _installed_entry_points() -> tuple[dict[str, EntryPoint], list[EntryPoint]]:
    builtin: dict[str, EntryPoint] = {}
    external: list[EntryPoint] = []
    for entry_point in sorted(entry_points(group=_GROUP), key=lambda entry_point: entry_point.name):
        if entry_point.dist is not None and entry_point.dist.name == _BUILTIN:
            builtin[entry_point.name] = entry_point
        else:
            external.append(entry_point)
    return builtin, external


def _load(entry_point: EntryPoint, *, is_named: bool) -> None:
    try:
        entry_point.load()
    except MissingPackages as error:
        log = _log.warning if is_named else _log.info
        log(
            "handler_left_out",
            handler=entry_point.name,
            missing=list(error.packages),
            advice=f"install {error.install}",
        )


def _import(module: str) -> None:
    before = len(registry)
    importlib.import_module(module)
    # A module that was already imported registers nothing when it is imported again.
    if len(registry) == before and not any(_is_from(handler, module) for handler in registry):
        _log.warning(
            "module_without_handlers",
            module=module,
            advice="decorate one of its functions with @handler, or remove the module from "
            "HEADRACE_HANDLERS",
        )


def _is_from(registered: RegisteredHandler, module: str) -> bool:
    return f"{registered.function.__module__}.".startswith(f"{module}.")
