"""The cookies of a session. No script can read them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# A browser rejects a cookie of more than 4,096 bytes with its name and attributes.
MAX_VALUE_BYTES: Final = 3_900
# The characters of bearer tokens (RFC 6750, section 2.1) and the separator of `refresh`.
_is_value: Final = re.compile(r"[A-Za-z0-9._~+/=:-]+").fullmatch
# A cookie ends this long before its token, in seconds, so that no request arrives with a token that
# expires on the way.
_MARGIN_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The credentials of a session.

    Attributes:
        access: the access token or the API key, which identifies the user in calls.
        access_s: the seconds until it expires; None if it ends with the browser.
        refresh: the name of its renewal, a colon, and the refresh token; empty for none.
        refresh_s: the seconds until the session ends; None if it ends with the browser.
    """

    access: str
    access_s: float | None = None
    refresh: str = ""
    refresh_s: float | None = None


class Cookies:
    """Names and writes the cookies.

    Args:
        secure: whether browsers reach the server by HTTPS.

    Attributes:
        access: the name of the cookie with the access token or the API key.
        refresh: the name of the cookie with the refresh token.
        login: the name of the cookie with the state of an unfinished login at an issuer.
    """

    def __init__(self, *, secure: bool) -> None:
        self._secure = secure
        # The prefix makes browsers reject a cookie that another host or plain HTTP sets.
        prefix = "__Host-" if secure else ""
        self.access = f"{prefix}headrace"
        self.refresh = f"{prefix}headrace-refresh"
        self.login = f"{prefix}headrace-login"

    def set(self, name: str, value: str, *, max_age: float | None) -> str:
        """Return the header Set-Cookie that stores a cookie.

        Args:
            name: the name.
            value: the value.
            max_age: the seconds until the browser deletes it; None to delete it with the browser.

        Raises:
            ValueError: the value cannot be stored in a cookie.
        """
        if not _is_value(value):
            raise ValueError("the token has a character that cookies cannot contain")
        if len(value) > MAX_VALUE_BYTES:
            raise ValueError(
                f"the token has {len(value):,} bytes; a cookie can have {MAX_VALUE_BYTES:,}"
            )
        age = "" if max_age is None else f"; Max-Age={max(1, round(max_age))}"
        return f"{name}={value}{age}{self._attributes}"

    def clear(self, *names: str) -> list[str]:
        """Return the headers Set-Cookie that delete cookies."""
        return [f"{name}=; Max-Age=0{self._attributes}" for name in names]

    def store(self, credentials: Credentials) -> list[str]:
        """Return the headers Set-Cookie that store a session.

        Raises:
            ValueError: a token cannot be stored in a cookie.
        """
        age = credentials.access_s
        headers = [
            self.set(
                self.access,
                credentials.access,
                max_age=None if age is None else age - min(_MARGIN_S, age / 2),
            )
        ]
        if credentials.refresh:
            headers.append(
                self.set(self.refresh, credentials.refresh, max_age=credentials.refresh_s)
            )
        return headers

    @property
    def _attributes(self) -> str:
        return f"; Path=/; HttpOnly; SameSite=Lax{'; Secure' if self._secure else ''}"
