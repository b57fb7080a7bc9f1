"""The command `headrace`, in the extra `cli`."""

import sys


def main() -> None:
    """Runs the command line and exits."""
    try:
        from headrace.cli.app import run  # noqa: PLC0415  # it needs what may be missing
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"cyclopts", "rich"}:
            raise
        print(  # noqa: T201
            f"error: the command needs {missing}, which is not installed; "
            "in a checkout of Headrace, try: pip install './clients/python[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
