"""Misspelled variables are recognized; other variables are ignored."""

from __future__ import annotations

import pytest

from headrace_core.runtime.variables import misspelled_variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HEADRACE_WORKER_SLOT", "HEADRACE_WORKER_SLOTS"),
        ("HEADRACE_DATABSE_URL", "HEADRACE_DATABASE_URL"),
        ("HEADRACE_REDIS", "HEADRACE_REDIS_URL"),
        ("HEADRACE_EMAIL_HOSTS", "HEADRACE_EMAIL_HOST"),
        ("HEADRACE_HANDLER", "HEADRACE_HANDLERS"),
        ("HEADRACE_MAX_PAYLOAD_BYTE", "HEADRACE_MAX_PAYLOAD_BYTES"),
        ("HEADRACE_GATEWAY_ADRESS", "HEADRACE_GATEWAY_ADDRESS"),
    ],
)
def test_misspelled_name_is_corrected(name: str, meant: str) -> None:
    assert misspelled_variables({name: "x"}) == {name: meant}


@pytest.mark.parametrize(
    "name",
    [
        "HEADRACE_WORKER_SLOTS",
        "HEADRACE_TARGET",
        "HEADRACE_EMAIL_PASSWORD",
        "HEADRACE_POSTGRES_PASSWORD",
        "HEADRACE_TEST_DATABASE_URL",
        "HEADRACE_GATEWAY_PORT",
        # Kubernetes sets these for a service `headrace-gateway`.
        "HEADRACE_GATEWAY_PORT_50051_TCP_ADDR",
        "HEADRACE_GATEWAY_SERVICE_HOST",
        # The setting of a user's handler.
        "HEADRACE_SHOP_WAREHOUSE",
        "WORKER_SLOT",
    ],
)
def test_known_or_foreign_name_is_ignored(name: str) -> None:
    assert misspelled_variables({name: "x"}) == {}
