"""One file per scenario; each has a SCENARIO."""
