"""`.env.example` lists exactly the settings, with their defaults."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

import headrace_handlers
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.variables import known_variables

EXAMPLE = Path(__file__).parents[2] / ".env.example"

# Variables that the client, the command line and docker compose read.
OTHER_VARIABLES = {
    "HEADRACE_TARGET",
    "HEADRACE_TOKEN",
    "HEADRACE_API_KEY",
    "HEADRACE_TLS",
    "HEADRACE_TLS_CA",
    "HEADRACE_TLS_CERT",
    "HEADRACE_TLS_KEY",
    "HEADRACE_CONTEXT",
    "HEADRACE_DATA",
    "HEADRACE_POSTGRES_PASSWORD",
    "HEADRACE_REDIS_PASSWORD",
}


def settings_classes() -> list[type[BaseSettings]]:
    """Return the settings classes of the services and the built-in handlers."""
    package = headrace_handlers
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, BaseSettings)
        and value.__module__ == module.__name__
    }
    return [Settings, *sorted(found, key=lambda one: one.__name__)]


def variable_names(settings: type[BaseSettings]) -> set[str]:
    prefix = settings.model_config["env_prefix"]
    return {f"{prefix}{name}".upper() for name in settings.model_fields}


@pytest.fixture
def example() -> dict[str, str]:
    return dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def test_example_lists_exactly_the_settings(example: dict[str, str]) -> None:
    known = set().union(*(variable_names(settings) for settings in settings_classes()))
    assert set(example) == known | OTHER_VARIABLES


def test_known_variables_contain_every_setting(example: dict[str, str]) -> None:
    # `runtime/variables.py` cannot import the handler settings, so it repeats their names.
    assert known_variables() == set(example)


def test_example_values_equal_the_defaults(
    example: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in example.items():
        if value:
            monkeypatch.setenv(name, value)
    for settings in settings_classes():
        configured = settings()
        with pytest.MonkeyPatch.context() as unset:
            for name in example:
                unset.delenv(name, raising=False)
            assert configured == settings()


def test_each_setting_has_a_comment() -> None:
    unexplained = re.findall(r"(?:^|\n)\n#(HEADRACE_\w+)=", EXAMPLE.read_text())
    assert unexplained == []
