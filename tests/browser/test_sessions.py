"""Logins, roles and the pages of administrators, in a browser."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, expect
from pydantic import SecretStr

from headrace import Client
from headrace_core.domain.access import Role
from headrace_core.runtime.settings import Settings
from support.access import add_api_key
from support.browser import Errors, open_page, violations
from support.dashboard import Dashboard, gates
from support.issuer import AUDIENCE, LocalIssuer, running_issuer

PASSWORD = "a long and quiet river"
VIEWER = ["Overview", "Jobs", "Queues", "Workers", "Subscriptions"]
OPERATOR = ["Overview", "Jobs", "Submit", "Queues", "Workers", "Subscriptions"]
ADMIN = [*OPERATOR, "API keys", "Users", "Tenants", "Audit log"]


@pytest.fixture(scope="module")
def issuer() -> Iterator[LocalIssuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def module_settings(module_settings: Settings, issuer: LocalIssuer) -> Settings:
    oidc = {"issuer": issuer.url, "client_id": AUDIENCE, "name": "Example"}
    return module_settings.model_copy(
        update={
            "access_control": True,
            "issuers": issuer.setting(leeway=0),
            "web_oidc": SecretStr(json.dumps(oidc)),
        }
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(dashboard: Dashboard) -> AsyncIterator[Client]:
    """A client of the platform's operators, and a user of each role."""
    key = await add_api_key(dashboard.database, Role.PLATFORM, principal="root")
    async with Client(dashboard.target, api_key=key) as client:
        for role in ("viewer", "operator", "admin", "platform"):
            await client.create_user(role, role=role, password=PASSWORD)
        yield client


async def log_in(page: Page, user: str, path: str = "/") -> None:
    """Open a page, and log in as a user."""
    await page.goto(path)
    await page.get_by_label("User").fill(user)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").first.click()
    await expect(page.locator("#principal")).to_contain_text(f"{user} · default")


def row_of(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name, exact=True))


async def test_login_page_is_accessible(page: Page, platform: Client) -> None:
    await page.emulate_media(color_scheme="light")
    await page.goto("/jobs")
    await expect(page.get_by_role("link", name="Log in with Example")).to_be_visible()
    await page.get_by_text("Log in with an API key").click()
    assert await violations(page) == []
    await page.emulate_media(color_scheme="dark")
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    assert await violations(page) == []


async def test_password_opens_the_requested_page(
    page: Page, errors: Errors, platform: Client
) -> None:
    errors.expect("401")
    await page.goto("/queues")
    await page.get_by_label("User").fill("viewer")
    await page.get_by_label("Password").fill("not the password")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect(page.get_by_label("User")).to_have_value("viewer")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Queues")
    await expect(page.locator("#live")).to_have_text("Live")
    assert await page.evaluate("document.cookie") == ""
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Log in to Headrace")
    await page.goto("/jobs")
    await expect(page).to_have_url(re.compile("/login"))


@pytest.mark.parametrize(
    ("user", "links"),
    [("viewer", VIEWER), ("operator", OPERATOR), ("admin", ADMIN), ("platform", ADMIN)],
    ids=["viewer", "operator", "admin", "platform"],
)
async def test_role_sees_only_what_it_may_do(
    page: Page, platform: Client, user: str, links: list[str]
) -> None:
    """The browser reports each refused request as an error, so there is none."""
    gate = uuid.uuid4().hex
    job = await platform.submit("page.gated", {"gate": gate})
    await log_in(page, user)
    visible = page.get_by_role("navigation").get_by_role("link")
    await expect(visible).to_have_text(links)
    for name in links:
        await visible.get_by_text(name, exact=True).click()
        await expect(page.get_by_role("navigation").locator("[aria-current]")).to_have_text(name)
        await expect(page.locator("main .loading")).to_have_count(0)
    may_act = user != "viewer"
    await open_page(page, "/jobs")
    await expect(page.locator(f'tr[data-key="{job.id}"]')).to_be_visible()
    await expect(page.get_by_label("Select all on this page")).to_have_count(int(may_act))
    await open_page(page, f"/jobs/{job.id}")
    await expect(page.get_by_role("button", name="Cancel")).to_have_count(int(may_act))
    await expect(page.get_by_role("link", name="Submit one like it")).to_have_count(int(may_act))
    await expect(page.get_by_role("region", name="Payload")).to_contain_text("payload:read")
    await open_page(page, "/subscriptions")
    await expect(page.get_by_role("button", name="Create subscription…")).to_have_count(
        int(may_act)
    )
    gates[gate].set()


async def test_live_page_survives_the_expiry_of_its_token(
    page: Page, platform: Client, issuer: LocalIssuer
) -> None:
    """The pages of a browser share their session, and both miss and repeat nothing."""
    gate = uuid.uuid4().hex
    gated = await platform.submit("page.gated", {"gate": gate})
    queue = f"q{uuid.uuid4().hex[:8]}"
    issuer.logins.lifetime = 8
    submitted = []
    try:
        await page.goto(f'/jobs?filter=queue = "{queue}"')
        await page.get_by_role("link", name="Log in with Example").click()
        await expect(page.locator("#live")).to_have_text("Live")
        job_page = await page.context.new_page()
        await open_page(job_page, f"/jobs/{gated.id}")
        while issuer.logins.grants.count("refresh_token") < 1 or len(submitted) < 10:
            job = await platform.submit("page.double", {"number": 1}, queue=queue)
            submitted.append(job.id)
            await expect(page.locator(f'tr[data-key="{job.id}"]')).to_be_visible()
            await asyncio.sleep(0.5)
    finally:
        issuer.logins.lifetime = 600
        gates[gate].set()
    events = job_page.get_by_role("group", name="Events").locator("tbody tr")
    await expect(events.last).to_contain_text("SUCCEEDED")
    await expect(events).to_have_count(3)
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(len(submitted))
    keys = await rows.evaluate_all("(rows) => rows.map((row) => row.dataset.key)")
    assert keys == submitted[::-1]


async def test_key_is_shown_once_and_revoked(
    page: Page, errors: Errors, platform: Client, dashboard: Dashboard
) -> None:
    errors.expect("400")
    await log_in(page, "admin", "/keys")
    await page.get_by_role("button", name="Create key…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Create").click()
    await expect(dialog.get_by_label("Principal")).to_have_attribute("aria-invalid", "true")
    await dialog.get_by_label("Principal").fill("robot")
    await dialog.get_by_label("Scope").fill("jobs:reed")
    await dialog.get_by_role("button", name="Create").click()
    await expect(dialog.get_by_label("Scope")).to_have_attribute("aria-invalid", "true")
    assert await violations(page) == []
    await dialog.get_by_label("Scope").fill("jobs:read queue:mail")
    await expect(dialog.get_by_label("Role").locator("option")).to_have_text(
        ["viewer", "operator", "admin"]
    )
    await dialog.get_by_role("button", name="Create").click()
    secret = await page.locator("[data-secret]").text_content()
    assert secret is not None
    assert await violations(page) == []
    async with Client(dashboard.target, api_key=secret) as robot:
        assert (await robot.whoami()).scope == ("jobs:read", "queue:mail")
    await page.get_by_role("dialog").get_by_role("button", name="Close").click()
    await expect(page.get_by_text(secret)).to_have_count(0)
    row = row_of(page, "robot")
    await expect(row).to_contain_text("active")
    await row.get_by_role("button", name="Revoke").click()
    await page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    await expect(row).to_contain_text("revoked")


async def test_user_is_created_changed_and_deleted(
    page: Page, errors: Errors, platform: Client
) -> None:
    errors.expect("400")
    await log_in(page, "admin", "/users")
    await page.get_by_role("button", name="Create user…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("grace")
    await dialog.get_by_label("Password").fill("short")
    await dialog.get_by_role("button", name="Create").click()
    await expect(dialog.get_by_label("Password")).to_have_attribute("aria-invalid", "true")
    await dialog.get_by_label("Password").fill("")
    await dialog.get_by_role("button", name="Create").click()
    password = await page.locator("[data-secret]").text_content()
    assert password is not None
    await page.get_by_role("dialog").get_by_role("button", name="Close").click()
    row = row_of(page, "grace")
    await expect(row).to_contain_text("viewer")
    await row.get_by_role("button", name="Edit grace").click()
    await page.get_by_role("dialog").get_by_label("Role").select_option("operator")
    await page.get_by_role("dialog").get_by_label("Disabled").check()
    await page.get_by_role("dialog").get_by_role("button", name="Save").click()
    await expect(row).to_contain_text("operator")
    await expect(row).to_contain_text("disabled")
    await row.get_by_role("button", name="Delete grace").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(row).to_have_count(0)


async def test_tenant_is_limited_suspended_and_deleted(
    page: Page, errors: Errors, platform: Client
) -> None:
    errors.expect("400")
    await log_in(page, "platform", "/tenants")
    await page.get_by_role("button", name="Create tenant…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("Not A Name")
    await dialog.get_by_role("button", name="Create").click()
    await expect(dialog.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    await dialog.get_by_label("Name").fill("acme")
    await dialog.get_by_role("button", name="Create").click()
    panel = page.get_by_role("region", name="Tenant acme")
    await panel.get_by_role("button", name="Quotas acme").click()
    waiting = dialog.get_by_label("Waiting jobs")
    await waiting.fill("many")
    await dialog.get_by_role("button", name="Save").click()
    await expect(waiting).to_have_attribute("aria-invalid", "true")
    await waiting.fill("1000")
    await dialog.get_by_role("button", name="Save").click()
    await panel.get_by_role("button", name="Show the usage of acme").click()
    await expect(panel).to_contain_text("limit 1,000")
    await panel.get_by_role("button", name="Suspend acme").click()
    await dialog.get_by_role("button", name="Suspend").click()
    await expect(panel).to_contain_text("suspended")
    await panel.get_by_role("button", name="Resume acme").click()
    await expect(panel).to_contain_text("active")
    await panel.get_by_role("button", name="Delete acme").click()
    await dialog.get_by_role("button", name="Delete").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("must be acme")
    await dialog.get_by_role("textbox").fill("acme")
    await dialog.get_by_role("button", name="Delete").click()
    await expect(panel).to_have_count(0, timeout=60_000)
    own = page.get_by_role("region", name="Tenant default")
    await expect(own.get_by_role("button", name="Delete")).to_have_count(0)


async def test_admin_sees_and_limits_its_own_tenant(page: Page, platform: Client) -> None:
    await log_in(page, "admin", "/tenants")
    panel = page.get_by_role("region", name="Tenant default")
    await expect(panel).to_contain_text("Running jobs")
    await expect(page.get_by_role("button", name="Create tenant…")).to_have_count(0)
    await expect(panel.get_by_role("button", name="Ceilings")).to_have_count(0)
    await panel.get_by_role("button", name="Quotas default").click()
    await page.get_by_role("dialog").get_by_label("Open streams").fill("1000")
    await page.get_by_role("dialog").get_by_role("button", name="Save").click()
    await expect(panel).to_contain_text("limit 1,000")


async def test_audit_log_is_filtered_and_paged(page: Page, platform: Client) -> None:
    for number in range(101):
        await platform.create_api_key(f"paged-{number}")
    await log_in(page, "admin", "/audit")
    rows = page.get_by_role("group", name="Actions").locator("tbody tr")
    await expect(rows).to_have_count(100)
    await page.get_by_role("button", name="Load more").click()
    await expect(rows.nth(100)).to_be_visible()
    await page.get_by_label("Method").fill("SessionService/")
    await page.get_by_label("Principal").fill("admin")
    await page.keyboard.press("Enter")
    await expect(rows.first).to_contain_text("SessionService/Login")
    await expect(page.get_by_text("CreateApiKey", exact=True)).to_have_count(0)
    url = page.url
    assert "principal=admin" in url
    await page.goto(url)
    await expect(rows.first).to_contain_text("SessionService/Login")
    await page.get_by_role("button", name="Clear").click()
    await expect(rows).to_have_count(100)


async def test_subscription_is_created_and_deleted(
    page: Page, errors: Errors, platform: Client
) -> None:
    errors.expect("400")
    await log_in(page, "operator", "/subscriptions")
    await page.get_by_role("button", name="Create subscription…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("Not A Name")
    await dialog.get_by_role("button", name="Create").click()
    await expect(dialog.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    await dialog.get_by_label("Name").fill("billing")
    await dialog.get_by_label("Queues").fill("slow")
    await dialog.get_by_label("Labels").fill("team=ml")
    await dialog.get_by_role("button", name="Create").click()
    row = row_of(page, "billing")
    await expect(row).to_contain_text("queue = slow")
    await expect(row).to_contain_text("team = ml")
    await row.get_by_role("button", name="Delete billing").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(row).to_have_count(0)
