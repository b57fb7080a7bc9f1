"""The handlers that come with Headrace, found by entry points like those of any other package.

| type | what it does | settings |
|---|---|---|
| `square_sum`, `cube_sum`, `sum_range` | sums, CPU-bound, in a process of their own | none |
| `email` | sends a mail by SMTP | `HEADRACE_EMAIL_…` |
| `data_cleaning` | cleans a CSV or Parquet file, in a process of its own | `HEADRACE_FILES_…` |
| `ai_task` | sentiment, classification, summary, free prompt | `HEADRACE_AI_…` |
| `http_request` | calls a web service | `HEADRACE_HTTP_…` |

Each module keeps its settings beside its code and reads them when a job runs. The first job that
needs a package that imports slowly (polars, openai, VADER) imports it, so a process that computes
sums starts fast.
"""
