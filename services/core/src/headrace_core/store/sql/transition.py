"""The builder of every transition: one statement that changes jobs and records their events.

A statement is a list of CTEs: `before`, the selection that locks the rows, the guarded UPDATE, the
INSERT of the events, and `then`. The declarations are in `store/jobs/`. To add a feature:

- To fire a schedule: add a CTE to `before` of `Creation`. The CTE advances the schedule and returns
  the columns of its job. Select `input` from it. If the CTE returns no row, no job is created.
  `submit_batch` creates the row of its batch this way.
- To release the jobs that wait for a job: declare a second `Transition`. Its selection joins the
  changed rows of the first transition (by its `name`). Pass the `ctes` of the second transition to
  the first one as `then`. `promote` counts its rows in such a CTE.

Each CTE reads the database as it was before the statement, so a statement must not change a row of
jobs twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from string import Template
from typing import Final, NamedTuple

from sqlalchemy import TextClause, text

from headrace_core.domain.lifecycle import TERMINAL, EventType, JobState, sources, targets
from headrace_core.store.sql.tables import in_list

TERMINAL_LIST: Final = in_list(sorted(TERMINAL))


def source_guard(event: EventType) -> str:
    """Return the condition under which `event` can occur for a row `j` of jobs."""
    return _scan_guard(sources(event))


def keyed_guard(event: EventType) -> str:
    """Return the condition of `source_guard`, for rows that are found by their keys.

    It hides the states from the planner, so the plan never scans the partial index of a state. A
    plan with such a scan could be made while few jobs have the state, and be slow with many.
    """
    return _key_guard(sources(event))


def _scan_guard(states: Sequence[JobState]) -> str:
    if len(states) == 1:
        return f"j.state = '{states[0]}'"
    return f"j.state IN ({in_list(states)})"


def _key_guard(states: Sequence[JobState]) -> str:
    return f"j.state = ANY (ARRAY(SELECT unnest(ARRAY[{in_list(states)}])))"


class Lock(StrEnum):
    """The locks that a selection takes on rows of jobs.

    The SQL function `check_fence` locks FOR KEY SHARE, which conflicts only with SKIP. So it delays
    only the transitions that can lead to another attempt.

    Attributes:
        WAIT: for writes by a worker or a client to its own job.
        SKIP: for transitions that can lead to another attempt, and for pruning.
    """

    WAIT = "FOR NO KEY UPDATE OF j"
    SKIP = "FOR UPDATE OF j SKIP LOCKED"


class Selection(NamedTuple):
    """The rows of jobs to change, as a CTE.

    Attributes:
        name: the name of the CTE. The CTE has the column `id`, and the columns that the
            transition's `changes` read.
        sql: the SELECT, from `jobs j`, with $guard and $lock.
        lock: the value of $lock.
    """

    name: str
    sql: str
    lock: Lock


class EventSeries(NamedTuple):
    """Several events for each changed row.

    Attributes:
        join: joins the changed row `e` with its events.
        number: the number of an event among the events of its row, from 1.
        per_row: the number of a row's events, a column of the selection.
    """

    join: str
    number: str
    per_row: str


class Transition:
    """A statement that changes jobs and inserts their events.

    Args:
        name: the CTE of the changed rows.
        events: the events that the statement can write.
        sources: the source states; by default the source states that all `events` share.
        before: CTEs before the selection.
        recursive: whether a CTE in `before` is recursive.
        rows: the rows to change, or the condition that finds one row by its key, with $guard.
        keyed: whether $guard is the guard for rows that are found by their keys.
        state: the new state, in SQL. It can be left out if `events` lead to a single state.
        changes: the values of other columns. The builder sets `seq`, `xid` and `update_time`.
        same_time: whether all times of the statement are equal, as `m.now`.
        returning: the columns of the changed rows; by default `EVENT_SOURCE`.
        event_type: the event's type, in SQL of the changed row `e`; required with several `events`.
        event_columns: the values of further columns of the event, in SQL of `e`.
        series: the events of a row, if a row can have several events.
        then: CTEs that read the changed rows.
        result: the final SELECT. Without one the INSERT of the events is the last statement.
        schema: the schema of the tables and a dot, for a function without a search path.

    Raises:
        ValueError: the declaration contradicts the lifecycle, or the guard or lock is missing.
    """

    __slots__ = ("ctes", "events", "sql", "statement")

    def __init__(
        self,
        *,
        name: str,
        events: Sequence[EventType],
        rows: Selection | str,
        sources: Sequence[JobState] | None = None,
        before: Sequence[str] = (),
        recursive: bool = False,
        keyed: bool = False,
        state: str | None = None,
        changes: Mapping[str, str],
        same_time: bool = False,
        returning: str | None = None,
        event_type: str | None = None,
        event_columns: Mapping[str, str] | None = None,
        series: EventSeries | None = None,
        then: Sequence[str] = (),
        result: str | None,
        schema: str = "",
    ) -> None:
        starts = _source_states(events, sources)
        if duplicates := changes.keys() & _BUILDER_COLUMNS:
            raise ValueError(f"the builder sets {sorted(duplicates)}")
        values = {
            **_new_state(events, starts, state),
            "seq": f"j.seq + {series.per_row if series else 1}",
            "xid": _EVENT_XID,
            **changes,
            "update_time": "m.now" if same_time else "clock_timestamp()",
        }
        guard = (_key_guard if keyed else _scan_guard)(starts)
        tables = ["(SELECT clock_timestamp() AS now) m"] if same_time else []
        selected = []
        if isinstance(rows, Selection):
            selected = [_cte(rows.name, _substitute(rows.sql, guard=guard, lock=rows.lock))]
            tables.insert(0, rows.name)
            where = f"j.id = {rows.name}.id"
        else:
            where = _substitute(rows, guard=guard)
        update = (
            f"UPDATE {schema}jobs j\nSET {_assignments(values)}\n"
            f"{f'FROM {_join(tables)} ' if tables else ''}WHERE {where}\n"
            f"RETURNING {returning or EVENT_SOURCE}"
            f"{f', {series.per_row} AS events' if series else ''}"
        )
        order = [] if isinstance(rows, str) else ["e.id"]
        insert = insert_events(
            table=f"{name} e {series.join}" if series else f"{name} e",
            seq=f"e.seq - e.events + {series.number}" if series else "e.seq",
            event_type=_event_type(events, event_type),
            state="e.state",
            time="e.update_time",
            columns=event_columns or {},
            order=[*order, series.number] if series else order,
            schema=schema,
        )
        self.events = tuple(events)
        self.ctes = [*before, *selected, _cte(name, update)]
        if result is not None:
            self.ctes += [_cte(f"{name}_event", insert), *then]
        self.sql = _statement(self.ctes, result or insert, recursive=recursive)
        self.statement: TextClause = text(self.sql)


class Creation:
    """A statement that inserts jobs, each with its first event.

    Args:
        before: CTEs. The CTE `input` contains the values.
        values: the columns of jobs, in SQL of `input`.
        options: ORDER BY and ON CONFLICT of the insert.
        returning: the columns of the CTE `created`.
        first: the CTE with a row `e` for each event; `input` needs no RETURNING.
        state, time: the new state and the time of submission, in SQL of `e`.
        event_columns: the values of further columns of the event, in SQL of `e`.
        order: the order of the events.
        then: CTEs that read the new jobs.
        result: the final SELECT.
    """

    __slots__ = ("ctes", "events", "statement")

    def __init__(
        self,
        *,
        before: Sequence[str],
        values: Mapping[str, str],
        options: str = "",
        returning: str = "",
        first: str = "created",
        state: str = "e.state",
        time: str = "e.create_time",
        event_columns: Mapping[str, str],
        order: Sequence[str] = (),
        then: Sequence[str] = (),
        result: str,
    ) -> None:
        jobs = (
            f"INSERT INTO jobs ({_join(values)})\nSELECT {_join(values.values())}\n"
            f"FROM input {options}{f' RETURNING {returning}' if returning else ''}"
        )
        events = insert_events(
            table=f"{first} e",
            seq="1",
            event_type=f"'{EventType.SUBMITTED}'",
            state=state,
            attempt="0",
            time=time,
            columns=event_columns,
            order=order,
        )
        self.events = (EventType.SUBMITTED,)
        self.ctes = [*before, _cte("created", jobs), _cte("created_event", events), *then]
        self.statement: TextClause = text(_statement(self.ctes, result))


# The columns that the builder sets.
_BUILDER_COLUMNS: Final = frozenset({"state", "seq", "xid", "update_time"})

# The columns of a changed row that its event copies.
EVENT_SOURCE: Final = "j.id, j.seq, j.xid, j.tenant, j.state, j.attempt, j.update_time"

# The columns of an event that a caller causes.
CALLER_COLUMNS: Final = {
    "principal": "CAST(:principal AS text)",
    "reason": "CAST(:reason AS text)",
}

# The xid of a job never decreases, so its events have the same order by place and by `seq`.
_EVENT_XID: Final = "greatest(j.xid, pg_current_xact_id())"


def insert_events(
    *,
    table: str,
    seq: str,
    event_type: str,
    state: str,
    time: str,
    columns: Mapping[str, str],
    attempt: str = "e.attempt",
    order: Sequence[str] = (),
    schema: str = "",
) -> str:
    """Return the INSERT of events, one for each row `e` of a table or join."""
    values = {
        "job_id": "e.id",
        "seq": seq,
        "xid": "e.xid",
        "tenant": "e.tenant",
        "type": event_type,
        "state": state,
        "attempt": attempt,
        "time": time,
        **columns,
    }
    return (
        f"INSERT INTO {schema}job_events ({_join(values)})\n"
        f"SELECT {_join(values.values())}\nFROM {table}"
        f"{f' ORDER BY {_join(order)}' if order else ''}"
    )


def _source_states(
    events: Sequence[EventType], declared: Sequence[JobState] | None
) -> Sequence[JobState]:
    """Return the declared states, or the states in which all `events` can occur."""
    allowed = [sources(event) for event in events]
    if declared is None:
        starts = [state for state in allowed[0] if all(state in each for each in allowed)]
    else:
        starts = [state for state in declared if any(state in each for each in allowed)]
    if not starts or (declared is not None and len(starts) < len(declared)):
        raise ValueError(f"the lifecycle has no state that allows all of {events}")
    return starts


def _new_state(
    events: Sequence[EventType], starts: Sequence[JobState], state: str | None
) -> dict[str, str]:
    """Return the new state, unless it is the old one."""
    if state is not None:
        return {"state": state}
    ends = {target for event in events for target in targets(event)}
    if len(ends) > 1:
        raise ValueError(f"{events} lead to several states; declare `state`")
    return {} if ends == set(starts) else {"state": f"'{ends.pop()}'"}


def _event_type(events: Sequence[EventType], kind: str | None) -> str:
    if kind is None and len(events) > 1:
        raise ValueError(f"{events} are several events; declare `event_type`")
    return kind or f"'{events[0]}'"


def _assignments(values: Mapping[str, str]) -> str:
    return _join(f"{column} = {value}" for column, value in values.items())


def _join(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _substitute(sql: str, **values: str) -> str:
    template = Template(sql)
    missing = values.keys() - set(template.get_identifiers())
    if missing:
        raise ValueError(f"the selection has no ${missing.pop()}")
    return template.substitute(values)


def _cte(name: str, sql: str) -> str:
    return f"{name} AS (\n{sql}\n)"


def _statement(ctes: Sequence[str], result: str, *, recursive: bool = False) -> str:
    return f"WITH {'RECURSIVE ' if recursive else ''}{_join(ctes)}\n{result}"
