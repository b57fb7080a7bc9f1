"""Faults that Headrace survives: scenarios on real processes, and the invariants that must hold.

`make faults` runs them; `docs/reliability.md` tells what each one does and shows.
"""
