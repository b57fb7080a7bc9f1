"""The lifecycle of `headrace.testing` equals that of the platform."""

from headrace.testing import _jobs
from headrace_core.domain.lifecycle import LIFECYCLE, TERMINAL


def test_fake_lifecycle_equals_the_platform_lifecycle():
    expected = {
        rule.event.name: ({s.name for s in rule.sources}, {s.name for s in rule.targets})
        for rule in LIFECYCLE
    }
    actual = {event: tuple(map(set, states)) for event, states in _jobs.LIFECYCLE.items()}
    assert actual == expected
    assert {state.name for state in TERMINAL} == _jobs.TERMINAL
