"""The command `headrace`, from the extra `cli`."""

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from headrace.cli.app import run  # noqa: PLC0415 - its packages are optional
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"cyclopts", "rich"}:
            raise
        print(  # noqa: T201
            f"error: the command headrace needs the package {missing}; "
            "in a checkout of Headrace, try: pip install './clients/python[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
