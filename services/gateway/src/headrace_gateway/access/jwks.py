"""The public keys of an issuer: a JSON Web Key Set (RFC 7517), cached and refreshed.

Only configured URLs and files are read: a token can name a key, but never its location.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import httpx2
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from headrace_core.domain.errors import Unauthenticated, Unavailable
from headrace_core.runtime.tasks import end_tasks
from headrace_gateway.access.cache import TimedCache
from headrace_gateway.access.issuer_settings import ALGORITHMS, Issuer, check_url, is_loopback

_log = structlog.get_logger()

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

# The time limit of a read of the keys in seconds, and the maximum size of a document in bytes.
_DEADLINE: Final = 10.0
_MAX_BYTES: Final = 256 * 1024
# The maximum number of keys, and the smallest modulus of RSA in bits (RFC 7518, section 3.3).
_MAX_KEYS: Final = 100
_MIN_RSA_BITS: Final = 2048
# Calls with unknown keys may cause this many reads at once, and then one read per pause in seconds.
_BURST: Final = 4
_PAUSE: Final = 5.0
# The longest wait after a failed read, in seconds.
_RETRY: Final = 10.0
# The maximum number of cached unknown key ids, and the lifetime of an entry in seconds.
_MISSING: Final = 1000
_MISSING_AGE: Final = 60.0

_DISCOVERY: Final = "/.well-known/openid-configuration"

_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA: Final = frozenset(name for name in ALGORITHMS if name[:2] in ("RS", "PS"))


class FetchFailed(Exception):
    """A document of an issuer cannot be read. The message contains no secrets."""


class Fetch(Protocol):
    """Reads a document of at most `_MAX_BYTES`."""

    async def __call__(self, url: str) -> bytes:
        """Return the body of a response.

        Raises:
            FetchFailed: the server is unreachable, or its response is not usable.
        """


@dataclass(frozen=True, slots=True)
class Jwk:
    """A public key, and the algorithms for which it may be used.

    Attributes:
        fingerprint: changes with the key, its id and its algorithms.
    """

    key: PublicKey
    algorithms: frozenset[str]
    fingerprint: str


class KeySet:
    """The keys of an issuer.

    Args:
        issuer: the issuer.
        fetch: reads a URL; None for a new HTTP client for each read.
        clock: returns monotonic seconds.

    Attributes:
        on_removed: receives the fingerprints of keys that the issuer has removed.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self.on_removed: Callable[[frozenset[str]], None] = lambda _: None
        self._fetch = HttpFetch(issuer.ca) if fetch is None else fetch
        self._clock = clock
        # The keys by id; the id "" has the keys without one.
        self._keys: Mapping[str, Sequence[Jwk]] = {}
        # The start of the last successful read, and of the last read.
        self._read_time = -inf
        self._try_time = -inf
        # The number of reads that calls may cause now.
        self._allowance = float(_BURST)
        self._allowance_time = clock()
        self._missing: TimedCache[str, None] = TimedCache(size=_MISSING, clock=clock)
        self._reading: asyncio.Task[bool] | None = None
        self._is_reachable = True

    async def find(self, key_id: str, algorithm: str) -> Sequence[Jwk]:
        """Return the keys that may have signed a token.

        Args:
            key_id: the id that the token names; empty if it names none.
            algorithm: the algorithm of the token; this issuer may use it.

        Raises:
            Unauthenticated: the issuer has no such key.
            Unavailable: the keys cannot be read now.
        """
        if self._clock() - self._read_time > self.issuer.max_stale and not (
            self._take() and await self._read()
        ):
            raise Unavailable("issuer")
        found = self._select(key_id)
        if found is None and key_id and key_id not in self._missing:
            # The issuer may have published the key since the last read. A read that has already
            # started may be too early for it.
            joined = self._reading is not None
            done = self._take() and await self._read()
            found = self._select(key_id)
            if found is None:
                if joined or not done:
                    raise Unavailable("issuer")
                self._missing.put(key_id, None, seconds=_MISSING_AGE)
        keys = [jwk for jwk in found or () if algorithm in jwk.algorithms]
        if not keys:
            raise Unauthenticated
        return keys

    async def refresh(self) -> float:
        """Read the keys if they are due, and return the seconds until the next read."""
        if self._due() <= self._clock():
            await self._read()
        return self._due() - self._clock()

    async def close(self) -> None:
        """Cancel an open read."""
        if self._reading is not None:
            await end_tasks(self._reading)

    def _select(self, key_id: str) -> Sequence[Jwk] | None:
        """Return the keys with an id; None if the id is unknown.

        A token without an id is accepted if the issuer has only one key.
        """
        if key_id:
            return self._keys.get(key_id)
        keys = [key for group in self._keys.values() for key in group]
        return keys if len(keys) == 1 else None

    def _due(self) -> float:
        """Return the time of the next refresh."""
        failed = self._read_time < self._try_time
        return self._try_time + min(self.issuer.refresh, _RETRY if failed else inf)

    def _take(self) -> bool:
        """Return whether a call may cause a read, or join one."""
        if self._reading is not None:
            return True
        now = self._clock()
        earned = (now - self._allowance_time) / _PAUSE
        self._allowance = min(self._allowance + earned, _BURST)
        self._allowance_time = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    async def _read(self) -> bool:
        """Read the keys; concurrent callers share one read. Return whether it succeeded."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_once(), name="jwks")
        # The cancellation of one caller must not end the read for the others.
        return await asyncio.shield(self._reading)

    async def _read_once(self) -> bool:
        started = self._try_time = self._clock()
        try:
            async with asyncio.timeout(_DEADLINE):
                keys = parse_jwks(await self._read_document())
        except (FetchFailed, TimeoutError) as error:
            if self._is_reachable:
                self._is_reachable = False
                _log.warning(
                    "issuer_unreachable",
                    issuer=self.issuer.issuer,
                    cause=str(error) or f"no response within {_DEADLINE:g} s",
                )
            return False
        finally:
            self._reading = None
        if not self._is_reachable or keys.keys() != self._keys.keys():
            _log.info("issuer_keys_read", issuer=self.issuer.issuer, keys=sorted(keys))
        self._is_reachable = True
        removed = frozenset(_fingerprints(self._keys) - _fingerprints(keys))
        self._keys = keys
        self._read_time = started
        if removed:
            self.on_removed(removed)
        return True

    async def _read_document(self) -> bytes:
        place = self.issuer.jwks
        if place and "://" not in place:
            return await asyncio.to_thread(_read_file, place)
        return await self._fetch(place or await self._discover())

    async def _discover(self) -> str:
        """Return the URL of the keys (OpenID Connect Discovery 1.0, section 4)."""
        issuer = self.issuer.issuer
        document = _to_object(await self._fetch(issuer.rstrip("/") + _DISCOVERY))
        if document.get("issuer") != issuer:
            raise FetchFailed("the discovery document belongs to another issuer")
        url = document.get("jwks_uri")
        try:
            check_url(str(url), loopback=is_loopback(issuer))
        except ValueError as error:
            raise FetchFailed(f"the jwks_uri of the discovery document: {error}") from error
        return str(url)


class HttpFetch:
    """Reads documents over HTTPS; see `Fetch`. Redirects are not followed.

    Args:
        ca: the path of the CA certificates; empty for the CAs of the system.
    """

    def __init__(self, ca: str = "") -> None:
        self._ca = ca

    async def __call__(self, url: str) -> bytes:
        """Return the body of a response; see `Fetch`."""
        try:
            context = await asyncio.to_thread(ssl.create_default_context, cafile=self._ca or None)
            body = bytearray()
            async with (
                httpx2.AsyncClient(
                    verify=context,
                    timeout=_DEADLINE,
                    # A proxy from the environment cannot reach the loopback address of this
                    # machine.
                    trust_env=not is_loopback(url),
                ) as client,
                client.stream(
                    "GET",
                    url,
                    # A small compressed body could expand to any size.
                    headers={"accept": "application/json", "accept-encoding": "identity"},
                ) as response,
            ):
                if response.status_code != 200:
                    raise FetchFailed(f"{url} responded with the status {response.status_code}")
                async for chunk in response.aiter_raw():
                    body += chunk
                    _check_size(url, len(body))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise FetchFailed(f"{url}: {type(error).__name__}: {error}") from error
        return bytes(body)


def parse_jwks(document: bytes) -> dict[str, list[Jwk]]:
    """Return the usable signature keys of a key set, by id.

    Keys of unknown types, secrets and keys for encryption are ignored.

    Raises:
        FetchFailed: the document is not a key set.
    """
    entries = _to_object(document).get("keys")
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise FetchFailed(f"the key set has no list 'keys' of at most {_MAX_KEYS} keys")
    keys: dict[str, list[Jwk]] = {}
    for entry in entries:
        jwk = _to_jwk(entry)
        if jwk is not None:
            key_id = entry.get("kid")
            keys.setdefault(key_id if isinstance(key_id, str) else "", []).append(jwk)
    return keys


def _to_jwk(entry: object) -> Jwk | None:
    """Return a key; None if it cannot verify signatures."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key = jwt.PyJWK(entry).key
    except Exception:  # noqa: BLE001 - a malformed key must not hide the other keys
        return None
    algorithms = _algorithms_of(key)
    if "alg" in entry:
        algorithms &= {str(entry["alg"])}
    if not algorithms:
        return None
    return Jwk(key, algorithms, _fingerprint(entry.get("kid"), key, algorithms))


def _fingerprint(key_id: object, key: PublicKey, algorithms: frozenset[str]) -> str:
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(repr((key_id, sorted(algorithms), encoded)).encode()).hexdigest()


def _fingerprints(keys: Mapping[str, Sequence[Jwk]]) -> set[str]:
    return {jwk.fingerprint for group in keys.values() for jwk in group}


def _algorithms_of(key: object) -> frozenset[str]:
    match key:
        case RSAPublicKey() if key.key_size >= _MIN_RSA_BITS:
            return _RSA
        case EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return frozenset({_CURVES[key.curve.name]})
        case Ed25519PublicKey():
            return frozenset({"EdDSA"})
    return frozenset()


def _to_object(document: bytes) -> dict[str, Any]:
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise FetchFailed("the document is not JSON") from error
    if not isinstance(value, dict):
        raise FetchFailed("the document is not a JSON object")
    return value


def _read_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise FetchFailed(f"{path}: {error.strerror}") from error
    _check_size(path, len(content))
    return content


def _check_size(place: str, size: int) -> None:
    if size > _MAX_BYTES:
        raise FetchFailed(f"{place} has more than {_MAX_BYTES:,} bytes")
