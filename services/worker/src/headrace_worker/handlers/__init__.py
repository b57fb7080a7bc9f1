"""The handlers that come with Headrace. Importing a module of BUILTINS registers its handlers.

| type | what it does | settings |
|---|---|---|
| `square_sum`, `cube_sum`, `sum_range` | sums, CPU-bound, in a process of their own | none |
| `email` | sends a mail by SMTP | `HEADRACE_EMAIL_…` |
| `data_cleaning` | cleans a CSV or Parquet file, in a process of its own | `HEADRACE_FILES_…` |
| `ai_task` | sentiment, classification, summary, free prompt | `HEADRACE_AI_…` |
| `http_request` | calls a web service | `HEADRACE_HTTP_…` |

Each module keeps its settings beside its code and reads them when a job runs. What is slow to
import (polars, openai, VADER) is imported by the first job that needs it, so that a process that
computes sums starts fast. These packages are extras of `headrace-worker`.
"""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True, slots=True)
class Builtin:
    """A module of built-in handlers.

    Args:
        name: the module's name, by which HEADRACE_BUILTIN_HANDLERS selects it.
        extra: the extra of `headrace-worker` that installs `packages`; empty if it needs none.
        packages: the packages that its handlers import.
    """

    name: str
    extra: str = ""
    packages: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The full name of the module."""
        return f"{__name__}.{self.name}"

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


BUILTINS = (
    Builtin("ai_task", "ai", ("httpx2", "openai", "vaderSentiment")),
    Builtin("data_cleaning", "data", ("polars",)),
    Builtin("email", "email", ("aiosmtplib",)),
    Builtin("http_request", "http", ("httpx2",)),
    Builtin("numbers"),
)
