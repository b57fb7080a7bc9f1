"""Secrets that a repeated request receives again, although only their hashes are stored.

The secret is derived from the installation's secret, the caller and the caller's `request_id`. All
attempts of a request therefore return the same secret, in any order. The `request_id` itself is not
stored, so the secret cannot be derived from the database alone.
"""

from __future__ import annotations

import hmac
import json
from datetime import timedelta
from typing import Final

from headrace_core.domain.access import Principal

# The time for which a repeated request receives the secret of the first one.
REPEAT_WINDOW: Final = timedelta(minutes=10)

# The minimum length, because a shorter text could be guessed.
MIN_SECRET_REQUEST_ID: Final = 16


def secret_seed(
    installation_secret: bytes, *, method: str, caller: Principal, tenant: str, request_id: str
) -> bytes:
    """Return 32 bytes from which the secret of a request is made.

    Args:
        installation_secret: the secret of the installation.
        method: the name of the method.
        caller: the caller. Equal values of `request_id` from different callers are different
            requests.
        tenant: the tenant of the call.
        request_id: the caller's unguessable id of the request.
    """
    request = [method, tenant, caller.kind, caller.tenant, caller.name, request_id]
    return hmac.digest(installation_secret, json.dumps(request).encode(), "sha256")
