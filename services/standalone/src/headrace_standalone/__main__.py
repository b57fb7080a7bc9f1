"""`python -m headrace_standalone`, the same as `headrace up`."""

from __future__ import annotations

import cyclopts

from headrace_standalone.command import up

app = cyclopts.App(name="python -m headrace_standalone")
app.default(up)

if __name__ == "__main__":
    app()
