"""A real issuer of tokens: an HTTP or HTTPS server with a key set, and the signing keys."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import jwt
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "headrace"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class CodeFlow:
    """The authorization code flow with PKCE (RFC 7636). Each user is logged in at once.

    Attributes:
        changes: changes of the claims of the next ID tokens; see `LocalIssuer.claims`.
        lifetime: the seconds until the next ID tokens expire.
        error: the error that the issuer answers instead of a code; empty for none.
        grants: the grant types of the requests for tokens so far.
    """

    def __init__(self, issuer: LocalIssuer) -> None:
        self.changes: dict[str, object] = {}
        self.lifetime = 600
        self.error = ""
        self.grants: list[str] = []
        self._issuer = issuer
        self._started: dict[str, dict[str, str]] = {}
        self._refresh_tokens: set[str] = set()

    def authorize(self, parameters: Mapping[str, str]) -> str:
        """Return the address to which the issuer sends the browser."""
        answer = {"state": parameters["state"]}
        if self.error:
            answer["error"] = self.error
        else:
            assert parameters["code_challenge_method"] == "S256"
            answer["code"] = secrets.token_urlsafe()
            self._started[answer["code"]] = dict(parameters)
        return f"{parameters['redirect_uri']}?{urlencode(answer)}"

    def redeem(self, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Return the status and the document for a code or a refresh token. Each is valid once."""
        self.grants.append(form["grant_type"])
        if form["grant_type"] == "refresh_token":
            if form["refresh_token"] not in self._refresh_tokens:
                return 400, {"error": "invalid_grant"}
            self._refresh_tokens.remove(form["refresh_token"])
            return 200, self._tokens(nonce=None)
        started = self._started.pop(form["code"], None)
        if started is None or any(
            form[name] != started[name] for name in ("client_id", "redirect_uri")
        ):
            return 400, {"error": "invalid_grant"}
        challenge = encode_part(hashlib.sha256(form["code_verifier"].encode()).digest())
        if challenge != started["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        return 200, self._tokens(nonce=started["nonce"])

    def _tokens(self, *, nonce: str | None) -> dict[str, Any]:
        refresh = secrets.token_urlsafe()
        self._refresh_tokens.add(refresh)
        end = int(time.time()) + self.lifetime
        token = self._issuer.token(**{"nonce": nonce, "exp": end, **self.changes})
        return {"id_token": token, "access_token": "opaque", "refresh_token": refresh}


class LocalIssuer:
    """An issuer on this machine.

    Attributes:
        url: the URL of the issuer, which is the claim `iss` of its tokens.
        ca: the path of the authority's certificate; empty for plain HTTP.
        keys: the private keys by id. A key in `published` is in the key set.
        requests: the paths of the requests so far.
        status: the status of each response.
        discovery: fields that replace those of the discovery document.
        document: the key set, instead of the published keys.
        logins: the logins of browsers.
    """

    def __init__(self) -> None:
        self.url = self.ca = ""
        self.keys: dict[str, PrivateKey] = {
            "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ec": ec.generate_private_key(ec.SECP256R1()),
            "ed": ed25519.Ed25519PrivateKey.generate(),
        }
        self.published = dict.fromkeys(self.keys, True)
        self.requests: list[str] = []
        self.status = 200
        self.discovery: dict[str, Any] = {}
        self.document: bytes | None = None
        self.logins = CodeFlow(self)

    def add_key(self, key_id: str, *, published: bool = True) -> None:
        """Create another Ed25519 key."""
        self.keys[key_id] = ed25519.Ed25519PrivateKey.generate()
        self.published[key_id] = published

    def jwks(self) -> dict[str, Any]:
        """Return the key set."""
        return {
            "keys": [public_jwk(key, kid) for kid, key in self.keys.items() if self.published[kid]]
        }

    def claims(self, **changes: object) -> dict[str, Any]:
        """Return the claims of a valid token with changes; None removes a claim."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "tenant": "default",
            "roles": ["operator"],
            "scope": ["jobs:read", "jobs:submit"],
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        key_id: str = "rsa",
        *,
        algorithm: str = "",
        header: Mapping[str, object] | None = None,
        signer: PrivateKey | None = None,
        **changes: object,
    ) -> str:
        """Return a token.

        Args:
            key_id: the id of the signing key.
            algorithm: the algorithm; empty for the usual algorithm of the key.
            header: fields that replace those of the header.
            signer: a key that signs instead of the named key.
            changes: see `claims`.
        """
        key = self.keys[key_id] if signer is None else signer
        return jwt.encode(
            self.claims(**changes),
            key,
            algorithm=algorithm or algorithm_of(key),
            headers={"kid": key_id, **(header or {})},
        )

    def respond(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of a response."""
        self.requests.append(path)
        if path == "/.well-known/openid-configuration":
            document = {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                **self.discovery,
            }
            return self.status, json.dumps(document).encode()
        if path == "/keys":
            return self.status, self.document or json.dumps(self.jwks()).encode()
        return 404, b""

    def setting(self, **fields: object) -> str:
        """Return the value of HEADRACE_ISSUERS."""
        issuer = {
            "issuer": self.url,
            "audience": AUDIENCE,
            "ca": self.ca,
            "claims": {"tenant": "tenant", "role": "roles", "scope": "scope"},
            **fields,
        }
        return json.dumps({"issuers": [issuer]})


@contextmanager
def running_issuer(folder: Path | None = None) -> Iterator[LocalIssuer]:
    """Run an issuer.

    Args:
        folder: the folder of its certificates; None for plain HTTP.
    """
    issuer = LocalIssuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/authorize":
                self.send_response(302)
                self.send_header("location", issuer.logins.authorize(dict(parse_qsl(query))))
                self.send_header("content-length", "0")
                self.end_headers()
                return
            self._answer(*issuer.respond(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, document = issuer.logins.redeem(dict(parse_qsl(body.decode())))
            self._answer(status, json.dumps(document).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            if status in (301, 302, 307):
                self.send_header("location", f"{issuer.url}/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if folder is not None:
        authority = trustme.CA()
        issuer.ca = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(issuer.ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    issuer.url = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def algorithm_of(key: PrivateKey) -> str:
    """Return the usual algorithm of a key."""
    match key:
        case rsa.RSAPrivateKey():
            return "RS256"
        case ec.EllipticCurvePrivateKey():
            return "ES256"
    return "EdDSA"


def public_jwk(key: PrivateKey, key_id: str, **fields: object) -> dict[str, Any]:
    """Return the public JSON Web Key of a private key."""
    algorithm: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[
        algorithm_of(key)
    ]
    return {
        **algorithm.to_jwk(key.public_key(), as_dict=True),
        "kid": key_id,
        "use": "sig",
        **fields,
    }


def public_pem(key: PrivateKey) -> bytes:
    """Return the public key as PEM, the other form in which issuers publish keys."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def encode_part(value: object) -> str:
    """Encode a part of a token."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode_part(part: str) -> dict[str, Any]:
    """Decode the header or the claims of a token."""
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return value
