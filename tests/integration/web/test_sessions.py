"""Sessions of browsers: logins, cookies, renewal, and protection against other sites."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from pydantic import SecretStr

from headrace import Client
from headrace_core.domain.access import Role
from headrace_core.runtime.settings import Settings, StartRefused
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from headrace_web.service import Web
from headrace_web.sessions.routes import local_path
from support.access import add_api_key
from support.issuer import AUDIENCE, LocalIssuer, running_issuer

PASSWORD = "a long and quiet river"
CSRF = {"x-headrace-csrf": "1"}
JOB = {"type": "square_sum", "payload": {"data": []}}


@pytest.fixture(scope="module")
def issuer() -> Iterator[LocalIssuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def settings(settings: Settings, issuer: LocalIssuer) -> Settings:
    oidc = {"issuer": issuer.url, "client_id": AUDIENCE, "name": "Example"}
    return settings.model_copy(
        update={
            "access_control": True,
            "trusted_proxies": ("127.0.0.1/32",),
            "issuers": issuer.setting(leeway=0),
            "web_oidc": SecretStr(json.dumps(oidc)),
        }
    )


@pytest.fixture
async def admin(gateway: Gateway, database: Database) -> AsyncIterator[Client]:
    key = await add_api_key(database, Role.ADMIN)
    async with Client(f"127.0.0.1:{gateway.port}", api_key=key) as client:
        await client.create_user("ada", role="operator", password=PASSWORD)
        yield client


@pytest.fixture
async def http(web: Web) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that keeps cookies and follows redirects, as a browser does."""
    url = f"http://127.0.0.1:{web.port}"
    async with httpx2.AsyncClient(
        base_url=url, timeout=60, trust_env=False, follow_redirects=True
    ) as client:
        yield client


async def log_in(http: httpx2.AsyncClient, **fields: str) -> httpx2.Response:
    """Send the login form of this server."""
    form = {"username": "ada", "password": PASSWORD, **fields}
    origin = str(http.base_url).rstrip("/")
    return await http.post("/login", data=form, headers={"origin": origin}, follow_redirects=False)


async def me(http: httpx2.AsyncClient) -> dict[str, object]:
    response = await http.get("/v1/me")
    assert response.status_code == 200, response.text
    return response.json()


async def test_page_leads_to_the_login_and_back(http: httpx2.AsyncClient, admin: Client) -> None:
    page = await http.get("/jobs?filter=state = FAILED", follow_redirects=False)
    assert page.status_code == 303
    login = await http.get(page.headers["location"])
    assert 'value="/jobs?filter=state%20=%20FAILED"' in login.text
    assert "Log in with Example" in login.text
    response = await log_in(http, next="/jobs?filter=state%20=%20FAILED")
    assert response.status_code == 303
    assert response.headers["location"] == "/jobs?filter=state%20=%20FAILED"
    for cookie in response.headers.get_list("set-cookie"):
        assert "; Path=/; HttpOnly; SameSite=Lax" in cookie
        assert "Secure" not in cookie
    assert (await http.get("/jobs")).status_code == 200
    assert (await me(http))["name"] == "ada"


async def test_rejected_login_sets_no_cookie(http: httpx2.AsyncClient, admin: Client) -> None:
    wrong = await log_in(http, password="a wrong but long password")
    assert wrong.status_code == 401
    assert 'role="alert"' in wrong.text
    assert 'value="ada"' in wrong.text
    assert "a wrong but long password" not in wrong.text
    assert "set-cookie" not in wrong.headers
    while (throttled := await log_in(http, password="a wrong but long password")).is_error:
        if throttled.status_code == 429:
            break
    assert int(throttled.headers["retry-after"]) >= 1
    assert "Try again in" in throttled.text


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        # Only 127.0.0.1 is a trusted proxy.
        ("127.0.0.2", "192.0.2.1", "127.0.0.2"),
        ("127.0.0.1", "192.0.2.1", "192.0.2.1"),
        # The client chose the first address. The proxies appended the others.
        ("127.0.0.1", "192.0.2.1, 203.0.113.7, 127.0.0.1", "203.0.113.7"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
    ],
)
async def test_login_counts_for_the_address_of_the_browser(
    web: Web, admin: Client, peer: str, forwarded: str, address: str
) -> None:
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{web.port}",
        transport=httpx2.AsyncHTTPTransport(local_address=peer),
        headers={"x-forwarded-for": forwarded},
        timeout=60,
    ) as http:
        assert (await log_in(http)).status_code == 303
    events = [event async for event in admin.audit_events(method="SessionService/Login")]
    assert [event.address for event in events] == [address]


async def test_api_key_logs_in_until_the_browser_ends(
    http: httpx2.AsyncClient, admin: Client, database: Database
) -> None:
    key = await add_api_key(database, Role.VIEWER, principal="grace")
    response = await log_in(http, api_key=f" {key}\n")
    [cookie, cleared] = response.headers.get_list("set-cookie")
    assert cookie.startswith(f"headrace={key};")
    assert "Max-Age" not in cookie
    assert cleared.startswith("headrace-refresh=; Max-Age=0")
    assert (await me(http))["name"] == "grace"
    assert (await log_in(http, api_key="hr_bogus")).status_code == 401
    await admin.revoke_api_key(key.split("_")[1])


async def test_session_needs_header_for_unsafe_requests(
    http: httpx2.AsyncClient, admin: Client
) -> None:
    await log_in(http)
    for path in ("/v1/jobs", "/headrace.v1.JobService/ListJobs"):
        forged = await http.post(path, json=JOB if path == "/v1/jobs" else {})
        assert forged.status_code == 403, path
        assert "x-headrace-csrf" in forged.text
    assert (await http.post("/v1/jobs", json=JOB, headers=CSRF)).status_code in (200, 201)
    listed = await http.post("/headrace.v1.JobService/ListJobs", json={}, headers=CSRF)
    assert len(listed.json()["jobs"]) == 1


@pytest.mark.parametrize("path", ["/login", "/logout"])
async def test_form_of_another_site_is_rejected(
    http: httpx2.AsyncClient, admin: Client, path: str
) -> None:
    form = {"username": "ada", "password": PASSWORD}
    for headers in (
        {},
        {"origin": "https://evil.example.com"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": str(http.base_url).rstrip("/")},
    ):
        response = await http.post(path, data=form, headers=headers)
        assert response.status_code == 403, headers
        assert "set-cookie" not in response.headers


async def test_expired_access_token_is_renewed_once(
    http: httpx2.AsyncClient, admin: Client
) -> None:
    await log_in(http)
    refresh = http.cookies["headrace-refresh"]
    # A browser deletes the cookie shortly before the token expires.
    http.cookies.delete("headrace")
    responses = await asyncio.gather(*(http.get("/v1/me") for _ in range(8)))
    assert {response.status_code for response in responses} == {200}
    assert len({response.cookies["headrace-refresh"] for response in responses}) == 1
    assert http.cookies["headrace-refresh"] != refresh
    assert (await http.get("/v1/me")).headers.get_list("set-cookie") == []


async def test_rejected_access_token_is_renewed_by_the_next_request(
    http: httpx2.AsyncClient, admin: Client
) -> None:
    await log_in(http)
    http.cookies.set("headrace", "expired", domain="127.0.0.1", path="/")
    rejected = await http.get("/v1/me")
    assert rejected.status_code == 401
    assert (await me(http))["name"] == "ada"


async def test_ended_session_leads_to_the_login(http: httpx2.AsyncClient, admin: Client) -> None:
    await log_in(http)
    await admin.update_user("ada", disabled=True)
    http.cookies.delete("headrace")
    page = await http.get("/jobs", follow_redirects=False)
    assert page.status_code == 303
    assert page.headers["location"].startswith("/login?")
    assert not http.cookies


async def test_logout_ends_the_session_at_the_gateway(
    http: httpx2.AsyncClient, gateway: Gateway, admin: Client
) -> None:
    await log_in(http)
    kept = dict(http.cookies)
    origin = str(http.base_url).rstrip("/")
    response = await http.post("/logout", headers={"origin": origin}, follow_redirects=False)
    assert response.headers["location"] == "/login"
    assert not http.cookies
    cookie = {"cookie": f"headrace-refresh={kept['headrace-refresh']}"}
    assert (await http.get("/v1/me", headers=cookie)).status_code == 401


async def test_header_takes_precedence_over_the_cookie(
    http: httpx2.AsyncClient, admin: Client, database: Database
) -> None:
    await log_in(http)
    key = await add_api_key(database, Role.VIEWER, principal="grace")
    response = await http.get("/v1/me", headers={"authorization": f"Bearer {key}"})
    assert response.json()["name"] == "grace"


async def test_gateway_outage_keeps_the_session(
    http: httpx2.AsyncClient, gateway: Gateway, admin: Client
) -> None:
    await log_in(http)
    http.cookies.delete("headrace")
    await gateway.stop()
    assert (await http.get("/v1/me")).status_code == 503
    assert "headrace-refresh" in http.cookies
    login = await http.get("/login")
    assert login.status_code == 503
    assert "unavailable" in login.text
    assert (await log_in(http)).status_code == 503


async def test_issuer_logs_in_with_pkce(
    http: httpx2.AsyncClient, admin: Client, issuer: LocalIssuer
) -> None:
    response = await http.get("/login/oidc?next=/queues")
    assert str(response.url).endswith("/queues")
    assert (await me(http))["name"] == "ada"
    assert "headrace-login" not in http.cookies
    http.cookies.delete("headrace")
    assert (await me(http))["name"] == "ada"
    assert issuer.logins.grants[-2:] == ["authorization_code", "refresh_token"]


async def test_renewals_at_the_issuer_share_one_request(
    http: httpx2.AsyncClient, admin: Client, issuer: LocalIssuer
) -> None:
    await http.get("/login/oidc")
    before = len(issuer.logins.grants)
    stale = {"cookie": f"headrace-refresh={http.cookies['headrace-refresh']}"}
    http.cookies.clear()
    responses = await asyncio.gather(*(http.get("/v1/me", headers=stale) for _ in range(4)))
    # A request that the browser has sent before it received the new cookies.
    responses.append(await http.get("/v1/me", headers=stale))
    assert {response.status_code for response in responses} == {200}
    assert len(issuer.logins.grants) == before + 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"nonce": "other"}, "belongs to another login"),
        ({"aud": "other"}, "not valid"),
        ({"iss": "https://other.example.com"}, "not valid"),
        ({"exp": 1}, "not valid"),
        ({"roles": ["nobody"]}, "role"),
    ],
    ids=["nonce", "audience", "issuer", "expired", "role"],
)
async def test_token_of_the_issuer_is_checked(
    http: httpx2.AsyncClient,
    admin: Client,
    issuer: LocalIssuer,
    changes: dict[str, object],
    text: str,
) -> None:
    issuer.logins.changes = changes
    try:
        response = await http.get("/login/oidc")
    finally:
        issuer.logins.changes = {}
    assert response.status_code in (401, 403), response.text
    assert 'role="alert"' in response.text
    assert not http.cookies


async def test_answer_of_the_issuer_needs_its_login(
    http: httpx2.AsyncClient, admin: Client, issuer: LocalIssuer
) -> None:
    begun = await http.get("/login/oidc", follow_redirects=False)
    answer = issuer.logins.authorize(dict(httpx2.URL(begun.headers["location"]).params))
    async with httpx2.AsyncClient(trust_env=False) as other:
        response = await other.get(answer)
    assert response.status_code == 401
    assert "started elsewhere" in response.text
    issuer.logins.error = "access_denied"
    try:
        denied = await http.get("/login/oidc")
    finally:
        issuer.logins.error = ""
    assert denied.status_code == 401
    assert "access_denied" in denied.text


async def test_open_installation_needs_no_login(settings: Settings) -> None:
    settings = settings.model_copy(update={"access_control": False, "issuers": ""})
    gateway = Gateway(settings)
    await gateway.start()
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    try:
        url = f"http://127.0.0.1:{web.port}"
        async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
            login = await http.get("/login?next=/queues")
            assert (login.status_code, login.headers["location"]) == (303, "/queues")
            assert (await http.get("/queues")).status_code == 200
    finally:
        await web.stop()
        await gateway.stop()


async def test_cookies_are_secure_behind_https(
    settings: Settings, gateway: Gateway, admin: Client
) -> None:
    public = settings.model_copy(update={"web_public_url": "https://jobs.example.com"})
    web = Web(public, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    try:
        url = f"http://127.0.0.1:{web.port}"
        async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
            response = await log_in(http)
            begun = await http.get("/login/oidc")
    finally:
        await web.stop()
    cookies = response.headers.get_list("set-cookie")
    assert [cookie.partition("=")[0] for cookie in cookies] == [
        "__Host-headrace",
        "__Host-headrace-refresh",
    ]
    assert all(cookie.endswith("; Secure") for cookie in cookies)
    redirect = httpx2.URL(begun.headers["location"]).params["redirect_uri"]
    assert redirect == "https://jobs.example.com/login/callback"


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.example.com",
        "//evil.example.com",
        "/\\evil.example.com",
        "/a\\b",
        "/\t/evil.example.com",
        "javascript:alert(1)",
        "jobs",
        "",
        "/login?next=/",
        "/" + "a" * 3000,
    ],
)
def test_login_leads_to_pages_of_this_server_only(text: str) -> None:
    assert local_path(text) == "/"


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("{", "HEADRACE_WEB_OIDC"),
        ('{"issuer": "https://a.example.com"}', "client_id"),
        ('{"issuer": "http://a.example.com", "client_id": "a"}', "https://"),
        ('{"issuer": "https://a.example.com", "client_id": "a", "other": 1}', "other"),
        ("/missing.json", "missing.json"),
    ],
)
async def test_invalid_issuer_prevents_the_start(
    settings: Settings, setting: str, text: str
) -> None:
    web = Web(settings.model_copy(update={"web_oidc": SecretStr(setting)}), target="127.0.0.1:1")
    with pytest.raises(StartRefused, match=text):
        await web.start()
