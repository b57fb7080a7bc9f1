"""`.env.example` tells every setting and its default, and nothing else."""

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

# What is read by others than the services.
ELSEWHERE = {
    "HEADRACE_TARGET",
    "HEADRACE_DATA",
    "HEADRACE_POSTGRES_PASSWORD",
    "HEADRACE_REDIS_PASSWORD",
}


def settings_classes() -> list[type[BaseSettings]]:
    """The services' settings, and those that handlers keep beside their code."""
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


def names(settings: type[BaseSettings]) -> set[str]:
    prefix = settings.model_config["env_prefix"]
    return {f"{prefix}{name}".upper() for name in settings.model_fields}


@pytest.fixture
def example() -> dict[str, str]:
    return dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def test_it_lists_every_setting_and_no_other(example: dict[str, str]) -> None:
    known = set().union(*(names(settings) for settings in settings_classes()))
    assert set(example) == known | ELSEWHERE


def test_misspellings_are_compared_with_every_setting(example: dict[str, str]) -> None:
    # `runtime/variables.py` cannot import the settings of the handlers, so it repeats their names.
    assert known_variables() == set(example)


def test_its_values_are_the_defaults(
    example: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in example.items():
        if value:
            monkeypatch.setenv(name, value)
    for settings in settings_classes():
        said = settings()
        with pytest.MonkeyPatch.context() as nothing_set:
            for name in example:
                nothing_set.delenv(name, raising=False)
            assert said == settings()


def test_each_setting_is_explained() -> None:
    unexplained = re.findall(r"(?:^|\n)\n#(HEADRACE_\w+)=", EXAMPLE.read_text())
    assert unexplained == []
