"""The names of the HEADRACE_ variables, and the detection of misspelled ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from headrace_core.runtime.settings import Settings

_PREFIX: Final = "HEADRACE_"

# Variables that `Settings` does not read. A test compares them with `.env.example`.
_OTHER_VARIABLES: Final = frozenset(
    {
        # The client, its command line, and `headrace up`.
        "HEADRACE_API_KEY",
        "HEADRACE_CONTEXT",
        "HEADRACE_DATA",
        "HEADRACE_TARGET",
        "HEADRACE_TLS",
        "HEADRACE_TLS_CA",
        "HEADRACE_TLS_CERT",
        "HEADRACE_TLS_KEY",
        "HEADRACE_TOKEN",
        # Docker Compose.
        "HEADRACE_POSTGRES_PASSWORD",
        "HEADRACE_REDIS_PASSWORD",
        # Handlers.
        "HEADRACE_AI_API_KEY",
        "HEADRACE_AI_BASE_URL",
        "HEADRACE_AI_MODEL",
        "HEADRACE_AI_TIMEOUT",
        "HEADRACE_EMAIL_CA_FILE",
        "HEADRACE_EMAIL_HOST",
        "HEADRACE_EMAIL_PASSWORD",
        "HEADRACE_EMAIL_PORT",
        "HEADRACE_EMAIL_SENDER",
        "HEADRACE_EMAIL_STARTTLS",
        "HEADRACE_EMAIL_TIMEOUT",
        "HEADRACE_EMAIL_USERNAME",
        "HEADRACE_FILES_MAX_BYTES",
        "HEADRACE_FILES_MAX_MEMORY",
        "HEADRACE_FILES_ROOT",
        "HEADRACE_HTTP_ALLOWED_HOSTS",
        "HEADRACE_HTTP_ALLOWED_NETWORKS",
        "HEADRACE_HTTP_MAX_RESPONSE_BYTES",
    }
)
# Test variables, and the ports that Docker Compose publishes.
_IGNORED_PREFIXES: Final = ("HEADRACE_TEST_", "HEADRACE_GATEWAY_PORT", "HEADRACE_WEB_PORT")

# Minimum similarity of two names, from 0 to 1: one letter in nine can differ.
_MIN_SIMILARITY: Final = 0.85


def known_variables() -> frozenset[str]:
    """Return the names of all variables that Headrace reads."""
    return _OTHER_VARIABLES | {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}


def misspelled_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return unknown variables that are similar to known ones.

    A variable that resembles no setting belongs to another program or to a user's handler.

    Args:
        environment: the variables of the process.

    Returns:
        The most similar known variable for each unknown variable.
    """
    known = known_variables()
    suggestions = {}
    for name in sorted(environment):
        if not name.startswith(_PREFIX) or name in known or name.startswith(_IGNORED_PREFIXES):
            continue
        if matches := difflib.get_close_matches(name, known, n=1, cutoff=_MIN_SIMILARITY):
            suggestions[name] = matches[0]
    return suggestions
