"""Importing the package: its names, its cost and its dependencies."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import headrace


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()


@pytest.mark.parametrize("name", headrace.__all__)
def test_public_name_is_importable(name):
    assert getattr(headrace, name).__module__.startswith("headrace.") or name == "Duration"


def test_version_equals_the_package_version():
    assert headrace.__version__ == version("headrace")


def test_unknown_name_raises_an_attribute_error():
    with pytest.raises(AttributeError, match="nosuch"):
        headrace.nosuch  # noqa: B018


def test_import_of_the_package_does_not_load_grpc():
    loaded = run("import sys, headrace, headrace.cli.app; print(*sys.modules)")

    assert "grpc" not in loaded
    assert "google.protobuf" not in loaded


BLOCK_OTHER_PACKAGES = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {"headrace", "grpc", "google", "typing_extensions"} and (
            top not in sys.stdlib_module_names
        ) or name == "google.rpc":
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Nothing())
"""


def test_library_depends_only_on_grpcio_and_protobuf():
    program = (
        BLOCK_OTHER_PACKAGES
        + "from headrace import Client, SyncClient; print(Client, SyncClient())"
    )

    assert "<class" in run(program)
