"""Checks of `docker-compose.yml` and `deploy/Dockerfile` without a container engine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OUR_SERVICES = ("migrate", "gateway", "scheduler", "worker", "web", "ops")
# The package of this repository that each image installs.
PACKAGE = {name: f"headrace-{name}" for name in OUR_SERVICES} | {
    "migrate": "headrace-core",
    "worker": "headrace-handlers",
}


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def stages() -> dict[str, str]:
    """The instructions of each Dockerfile stage."""
    text = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)
    return {
        name: f"FROM {image}\n{body}"
        for image, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


def required_packages(package: str) -> set[str]:
    """Return a package and all packages of this repository that it requires."""
    projects = {}
    for file in (*ROOT.glob("services/*/pyproject.toml"), ROOT / "clients/python/pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        names = {re.split(r"[<>=\[]", one)[0] for one in project["dependencies"]}
        projects[project["name"]] = names
    found, pending = set(), {package}
    while pending:
        found |= pending
        pending = {
            needed
            for one in pending
            for needed in projects[one]
            if needed in projects and needed not in found
        }
    return found


def test_compose_file_contains_all_services(compose: dict) -> None:
    assert set(compose["services"]) == {"postgres", "redis", *OUR_SERVICES}


@pytest.mark.parametrize("name", ["postgres", "redis", "gateway", "scheduler", "worker", "web"])
def test_long_running_service_has_a_health_check(compose: dict, name: str) -> None:
    check = compose["services"][name]["healthcheck"]
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(check)


@pytest.mark.parametrize("name", ["gateway", "scheduler", "worker", "web"])
def test_health_check_probes_the_service_address(compose: dict, name: str) -> None:
    service = compose["services"][name]
    port = service["environment"][f"HEADRACE_{name.upper()}_ADDRESS"].rpartition(":")[2]
    scheme = "http://" if name == "web" else ""
    assert service["healthcheck"]["test"] == [
        *("CMD", "python", "-m", "headrace_health", "probe"),
        f"{scheme}127.0.0.1:{port}",
    ]


def test_operator_commands_have_their_own_profile(compose: dict) -> None:
    assert compose["services"]["ops"]["profiles"] == ["ops"]
    assert all(
        "profiles" not in compose["services"][name] for name in OUR_SERVICES if name != "ops"
    )


@pytest.mark.parametrize("name", ["gateway", "scheduler", "worker"])
def test_service_waits_for_its_dependencies(compose: dict, name: str) -> None:
    assert compose["services"][name]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        "redis": {"condition": "service_healthy"},
    }
    migrate = compose["services"]["migrate"]
    assert migrate["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert migrate["restart"].startswith("on-failure")


def test_passwords_have_no_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = re.findall(r"\$\{(HEADRACE_\w+PASSWORD)([^}]*)\}", text)
    assert {name for name, _ in used} == {"HEADRACE_POSTGRES_PASSWORD", "HEADRACE_REDIS_PASSWORD"}
    assert all(rest.startswith(":?") for _, rest in used)


def test_only_the_apis_are_published_and_only_on_loopback(compose: dict) -> None:
    published = {
        name: service["ports"]
        for name, service in compose["services"].items()
        if "ports" in service
    }
    assert set(published) == {"gateway", "web"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_only_published_services_allow_insecure_access(compose: dict) -> None:
    insecure = {
        name
        for name, service in compose["services"].items()
        if "HEADRACE_ALLOW_INSECURE" in service.get("environment", {})
    }
    assert insecure == {"gateway", "web"}


def test_web_service_has_no_credentials_of_the_servers(compose: dict) -> None:
    web = compose["services"]["web"]
    assert web["env_file"] == []
    assert not {"HEADRACE_DATABASE_URL", "HEADRACE_REDIS_URL"} & set(web["environment"])
    assert "PASSWORD" not in str(web["environment"])


@pytest.mark.parametrize("name", OUR_SERVICES)
def test_image_is_built_from_its_target(compose: dict, stages: dict[str, str], name: str) -> None:
    build = compose["services"][name]["build"]
    assert build["target"] == name
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    assert re.findall(r"^USER (\S+)$", stages[name], re.MULTILINE) == ["headrace"]
    assert f"COPY --from=build-{name} " in stages[name]
    assert stages[f"build-{name}"].startswith("FROM builder\n")


@pytest.mark.parametrize("name", OUR_SERVICES)
def test_image_contains_exactly_the_needed_packages(stages: dict[str, str], name: str) -> None:
    build = stages[f"build-{name}"]
    wheels = {wheel.replace("_", "-") for wheel in re.findall(r"/wheels/([a-z_]+)-\*\.whl", build)}
    assert wheels == required_packages(PACKAGE[name])
    assert f"--require-hashes -r requirements/{name}.txt" in build


def test_copied_paths_exist(stages: dict[str, str]) -> None:
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", stages["builder"], re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert sources
    assert all((ROOT / source).exists() for source in sources)


def test_base_images_have_pinned_tags(compose: dict, stages: dict[str, str]) -> None:
    images = [compose["services"][name]["image"] for name in ("postgres", "redis")]
    images += [re.match(r"FROM (\S+)", stages[name])[1] for name in ("base", "builder")]
    assert all(re.fullmatch(r"[a-z]+:\d[\w.-]*", image) for image in images)
