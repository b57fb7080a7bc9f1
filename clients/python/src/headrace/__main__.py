"""The entry point of `python -m headrace`, which is the command `headrace`."""

from headrace.cli import main

if __name__ == "__main__":
    main()
