"""Conditions on workers that stand in more than one statement."""

from __future__ import annotations

LIVE_WORKER = "w.lease_expire_time > clock_timestamp()"

# Alive and not draining: the worker takes jobs.
TAKING_WORKER = f"NOT w.draining AND {LIVE_WORKER}"
