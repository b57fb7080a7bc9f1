"""The handlers that come with Headrace. Importing one of MODULES registers what is in it.

| type | what it does | settings |
|---|---|---|
| `square_sum`, `cube_sum`, `sum_range` | sums, CPU-bound, in a process of their own | none |
| `email` | sends a mail by SMTP | `HEADRACE_EMAIL_…` |
| `data_cleaning` | cleans a CSV or Parquet file, in a process of its own | `HEADRACE_FILES_…` |
| `ai_task` | sentiment, classification, summary, free prompt | `HEADRACE_AI_…` |
| `http_request` | calls a web service | `HEADRACE_HTTP_…` |

Each module keeps its settings beside its code and reads them when a job runs. What is slow to
import (polars, openai, VADER) is imported by the first job that needs it, so that a process that
computes sums starts fast.
"""

MODULES = tuple(
    f"{__name__}.{name}"
    for name in ("ai_task", "data_cleaning", "email", "http_request", "numbers")
)
