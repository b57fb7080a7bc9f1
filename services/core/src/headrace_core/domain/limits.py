"""Limits on jobs and their fields. Each limit is defined here and nowhere else.

The gateway checks requests with these limits, the worker checks handlers, and the store derives
CHECKs from them. A few settings have a maximum here and a lower default in `runtime/settings.py`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

# Names of types, queues and subscriptions, and the keys and values of labels.
MAX_NAME: Final = 100
MAX_LABEL_KEY: Final = 63
MAX_LABEL_VALUE: Final = 255
MAX_LABELS: Final = 256

_NAME_CHARACTERS: Final = "characters of a-z, 0-9, _, - and ., beginning with a letter or digit"
NAME_RULE: Final = f"must be 1 to {MAX_NAME} {_NAME_CHARACTERS}"
LABEL_KEY_RULE: Final = f"must be 1 to {MAX_LABEL_KEY} {_NAME_CHARACTERS}"
LABEL_VALUE_RULE: Final = f"must be 0 to {MAX_LABEL_VALUE} characters, none of them NUL"

_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9_.\-]{{0,{MAX_NAME - 1}}}").fullmatch
_LABEL_KEY: Final = re.compile(rf"[a-z0-9][a-z0-9_.\-]{{0,{MAX_LABEL_KEY - 1}}}").fullmatch


def is_name(text: str) -> bool:
    """Return whether a type, a queue or a subscription can have this name."""
    return _NAME(text) is not None


def is_label_key(text: str) -> bool:
    """Return whether a label can have this key."""
    return _LABEL_KEY(text) is not None


def is_label_value(text: str) -> bool:
    """Return whether a label can have this value."""
    return len(text) <= MAX_LABEL_VALUE and "\0" not in text


# Idempotency keys and correlation ids, in characters.
MAX_REQUEST_ID: Final = 128

# The reason of a cancellation or a requeue, in characters.
MAX_REASON: Final = 500

MIN_PRIORITY: Final = -100
MAX_PRIORITY: Final = 100

# The largest payload, result or piece of output that a setting can allow, in bytes. A response
# holds two of them, and gRPC clients reject a response above 4 MiB.
MAX_DOCUMENT_BYTES: Final = 1024 * 1024

# Maximum levels of objects and lists in the document of a request. Protobuf decoders accept 100
# nested messages. Each level of objects needs three, and up to six enclose the document.
MAX_DOCUMENT_DEPTH: Final = 30

# The first and the last time that a submitter can request. Python and protobuf can represent times
# one day later, so a time zone or rounding cannot cause an overflow.
FIRST_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST_TIME: Final = datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC)
TIME_RULE: Final = "must be a time from 1970-01-01T00:00:00Z to 9999-12-30T23:59:59.999999999Z"

# The longest timeout of a job and the longest backoff that a job or a running handler requests.
MAX_TIMEOUT: Final = timedelta(days=7)
MAX_BACKOFF: Final = timedelta(days=7)

# The longest duration that a handler definition can set.
MAX_DURATION: Final = timedelta(days=3650)


class Bounds(NamedTuple):
    """The minimum and the maximum of a number, both inclusive."""

    minimum: float
    maximum: float

    def contains(self, number: float) -> bool:
        """Return whether a number is within the bounds; NaN is not."""
        return self.minimum <= number <= self.maximum

    def __str__(self) -> str:
        """Return text such as `1 to 100`."""
        return f"{self.minimum:g} to {self.maximum:g}"


ATTEMPTS: Final = Bounds(1, 100)
MULTIPLIER: Final = Bounds(1, 100)
JITTER: Final = Bounds(0, 1)

# Maximum lengths of error texts, in characters. A retry policy cannot name a longer error type.
MAX_ERROR_TYPE: Final = 200
MAX_ERROR_MESSAGE: Final = 2000
MAX_STACK_TRACE: Final = 16 * 1024

# Maximum number of error types in a retry policy.
MAX_ERROR_TYPES: Final = 32
ERROR_TYPES_RULE: Final = (
    f"at most {MAX_ERROR_TYPES} names of 1 to {MAX_ERROR_TYPE} characters, none of them NUL"
)


def is_error_type(name: str) -> bool:
    """Return whether a retry policy can name this error type."""
    return 1 <= len(name) <= MAX_ERROR_TYPE and "\0" not in name


# Limits on progress. Every list and every stream contains it.
MAX_PROGRESS_MESSAGE_BYTES: Final = 4096
MAX_COUNTERS: Final = 64
MAX_COUNTER_NAME: Final = 64

# The description of a handler, in characters.
MAX_DESCRIPTION: Final = 1000
