"""Scopes, roles and rights."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.access import (
    RIGHTS,
    AccessChange,
    Principal,
    PrincipalKind,
    Right,
    Role,
    Scope,
    parse_scope,
    rights_of,
)
from headrace_core.domain.api_key import new_api_key, read_api_key
from headrace_core.domain.ids import BatchId, JobId
from headrace_core.domain.query import JobFilter

NAMES = st.frozensets(st.sampled_from(["a", "b", "c"]), max_size=2)
LABELS = st.dictionaries(st.sampled_from(["user", "team"]), st.sampled_from(["1", "2"]), max_size=2)
IDS = st.sampled_from([UUID(int=1), UUID(int=2)])
SCOPES = st.builds(
    Scope,
    rights=st.frozensets(st.sampled_from(Right)),
    queues=NAMES,
    types=NAMES,
    labels=LABELS,
    batch_id=st.none() | IDS.map(BatchId),
    job_ids=st.frozensets(IDS.map(JobId), max_size=2),
)
FILTERS = st.builds(
    JobFilter,
    queues=NAMES,
    types=NAMES,
    labels=LABELS,
    batch_id=st.none() | IDS.map(BatchId),
    job_ids=st.frozensets(IDS.map(JobId), max_size=2),
)
JOBS = st.fixed_dictionaries(
    {
        "queue": st.sampled_from(["a", "b", "c"]),
        "job_type": st.sampled_from(["a", "b", "c"]),
        "labels": LABELS,
        "batch_id": st.none() | IDS.map(BatchId),
        "job_id": IDS.map(JobId),
    }
)


def as_scope(job_filter: JobFilter) -> Scope:
    """Return the scope that includes the jobs of a filter without states."""
    return Scope(
        queues=job_filter.queues,
        types=job_filter.types,
        labels=job_filter.labels,
        batch_id=job_filter.batch_id,
        job_ids=job_filter.job_ids,
    )


@given(SCOPES)
def test_scope_equals_the_parsed_entries(scope: Scope) -> None:
    parsed = parse_scope(scope.entries())
    assert parsed.entries() == scope.entries()


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "jobs",
        "jobs:write",
        "queue:",
        "queue:A",
        "type:a b",
        "label:user",
        "label:=1",
        "label:User=1",
        "batch:1",
        "job:x",
        f"queue:{'x' * 400}",
    ],
)
def test_malformed_entry_is_rejected(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_scope([entry])


def test_two_values_of_a_label_are_rejected() -> None:
    with pytest.raises(ValueError, match="two values"):
        parse_scope(["label:user=1", "label:user=2"])


def test_too_many_entries_are_rejected() -> None:
    with pytest.raises(ValueError, match="at most 64"):
        parse_scope([f"queue:q{number}" for number in range(65)])


@given(SCOPES, FILTERS, JOBS)
def test_narrowed_filter_includes_exactly_the_jobs_of_both(
    scope: Scope, job_filter: JobFilter, job: dict[str, object]
) -> None:
    narrowed = scope.narrow(job_filter)
    both = scope.covers(**job) and as_scope(job_filter).covers(**job)
    assert both == (narrowed is not None and as_scope(narrowed).covers(**job))


@given(SCOPES, FILTERS, JOBS)
def test_covered_filter_includes_no_job_outside_the_scope(
    scope: Scope, job_filter: JobFilter, job: dict[str, object]
) -> None:
    if scope.covers_filter(job_filter) and as_scope(job_filter).covers(**job):
        assert scope.covers(**job)


def test_roles_are_ordered_and_exclude_payloads() -> None:
    ordered = [RIGHTS[role] for role in Role]
    assert all(fewer < more for fewer, more in pairwise(ordered))
    assert all(Right.PAYLOAD_READ not in rights for rights in ordered)


def test_scope_keeps_rights_and_adds_payload_read() -> None:
    scope = parse_scope(["payload:read", "jobs:submit"])
    assert rights_of(Role.VIEWER, scope) == {Right.PAYLOAD_READ}
    assert rights_of(Role.OPERATOR, scope) == {Right.PAYLOAD_READ, Right.JOBS_SUBMIT}
    only_payload = parse_scope(["payload:read"])
    assert rights_of(Role.VIEWER, only_payload) == {Right.PAYLOAD_READ, Right.JOBS_READ}


def principal(role: Role, *entries: str) -> Principal:
    return Principal.of(
        name="ada",
        tenant="acme",
        kind=PrincipalKind.API_KEY,
        role=role,
        scope=parse_scope(entries),
        credential="k1",
    )


def test_principal_cannot_grant_more_than_it_has() -> None:
    admin = principal(Role.ADMIN, "queue:mail")
    assert admin.may_grant(Role.VIEWER, parse_scope(["queue:mail", "type:a"]))
    assert not admin.may_grant(Role.VIEWER, parse_scope(["type:a"]))
    assert not admin.may_grant(Role.VIEWER, parse_scope(["queue:mail", "payload:read"]))
    assert not admin.may_grant(Role.PLATFORM, parse_scope(["queue:mail"]))


def test_change_concerns_matching_credential_user_or_tenant() -> None:
    ada = principal(Role.ADMIN)

    def concerns(tenant: str, kind: str, subject: str, *, acting_in: str = "acme") -> bool:
        change = AccessChange(version=1, tenant=tenant, kind=kind, subject=subject)
        return change.concerns(ada, acting_in)

    assert concerns("acme", "api_key", "k1")
    assert not concerns("acme", "api_key", "k2")
    assert not concerns("other", "api_key", "k1")
    assert not concerns("acme", "user", "ada")
    assert concerns("other", "tenant", "other", acting_in="other")
    assert concerns("acme", "tenant", "acme", acting_in="other")
    assert not concerns("other", "tenant", "other")


def test_key_of_another_installation_is_rejected() -> None:
    key = new_api_key(b"a" * 32)
    assert read_api_key(b"a" * 32, key.text) == (key.id, key.secret_hash)
    assert read_api_key(b"b" * 32, key.text) is None


@pytest.mark.parametrize(
    "change", [lambda k: k[:-1], lambda k: k + "x", lambda k: "hr_" + k, str.upper]
)
def test_malformed_key_is_rejected(change: object) -> None:
    text = new_api_key(b"a" * 32).text
    assert read_api_key(b"a" * 32, change(text)) is None
