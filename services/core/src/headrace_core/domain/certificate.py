"""Bindings of client certificates to principals, by a subject alternative name.

A name is `uri:URI`, such as `uri:spiffe://example.com/billing`, or `dns:HOST`. Names are compared
literally: a wildcard matches only itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from headrace_core.domain.access import Role, Scope

# The longest URI of a SPIFFE ID, with the prefix `uri:`.
MAX_SAN_LENGTH: Final = 2052

_URI: Final = re.compile(r"uri:[A-Za-z][A-Za-z0-9+.-]*:[!-~]+").fullmatch
_HOST: Final = re.compile(r"dns:[a-z0-9_*-]+(\.[a-z0-9_-]+)*").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateBinding:
    """The principal of the client certificates with a name.

    Attributes:
        san: the subject alternative name, as `parse_san` returns it; unique in the installation.
        tenant: the tenant of the principal.
        principal: the principal.
        role: the role.
        scope: the restriction of the role.
        created_by: the principal that created the binding.
        create_time: the time of creation.
    """

    san: str
    tenant: str
    principal: str
    role: Role
    scope: Scope
    created_by: str
    create_time: datetime


def parse_san(text: str) -> str:
    """Return a subject alternative name in its normal form, for comparisons.

    Raises:
        ValueError: the name is malformed or too long.
    """
    if len(text) > MAX_SAN_LENGTH:
        raise ValueError(f"has {len(text)} characters; the limit is {MAX_SAN_LENGTH}")
    name = text.lower() if text.startswith("dns:") else text
    if not (_URI(name) or _HOST(name)):
        raise ValueError(
            f"{text!r} is not a subject alternative name; use uri:URI, such as "
            "uri:spiffe://example.com/billing, or dns:HOST"
        )
    return name
