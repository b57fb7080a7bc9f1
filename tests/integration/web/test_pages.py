"""The pages of the dashboard as documents; tests/browser shows them in a browser."""

from __future__ import annotations

import re

import httpx2
import pytest

from headrace_web.pages.routes import PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.script)
async def test_page_loads_only_files_that_exist(http: httpx2.AsyncClient, page) -> None:
    response = await http.get(page.path.replace("{id}", "1"))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    files = re.findall(r'(?:href|src)="(/static/[^"]+)"', response.text)
    assert len(files) == 4
    folder = files[0].rpartition("/")[0]
    for file in [*files, f"{folder}/pages/{page.script}.js"]:
        assert (await http.get(file)).status_code == 200, file


async def test_pages_forbid_inline_and_foreign_scripts(http: httpx2.AsyncClient) -> None:
    response = await http.get("/jobs")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "<script>" not in response.text
    assert not re.search(r"\s(?:style|on[a-z]+)=", response.text)


async def test_id_of_a_job_is_escaped(http: httpx2.AsyncClient) -> None:
    response = await http.get("/jobs/%22%3E%3Cscript%3Ealert(1)")
    assert response.status_code == 200
    assert "<script>alert" not in response.text


async def test_files_may_be_cached_forever(http: httpx2.AsyncClient) -> None:
    page = await http.get("/jobs")
    style = re.findall(r'href="(/static/[^"]+\.css)"', page.text)[0]
    response = await http.get(style)
    assert "immutable" in response.headers["cache-control"]
    assert page.headers["cache-control"] == "no-store"
