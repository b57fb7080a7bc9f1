"""The built-in handlers of Headrace; a worker finds them through entry points.

| type | effect | settings |
|---|---|---|
| `square_sum`, `cube_sum`, `sum_range` | CPU-bound sums, in a separate process | none |
| `email` | sends an email by SMTP | `HEADRACE_EMAIL_…` |
| `data_cleaning` | cleans a CSV or Parquet file, in a separate process | `HEADRACE_FILES_…` |
| `ai_task` | sentiment, classification, summary, free prompt | `HEADRACE_AI_…` |
| `http_request` | calls a web service | `HEADRACE_HTTP_…` |

Each module defines its settings and reads them when a job runs. The first job that needs a package
with a slow import (polars, openai, VADER) imports it, so other processes start fast.
"""
