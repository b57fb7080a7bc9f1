"""Deliveries to workers, through arq and Redis.

A delivery is an arq job whose id is `{job}:{attempt}`. The workers of a pool share one arq queue.
Redis stores ids only, so all its data can be rebuilt from PostgreSQL.
"""

from headrace_core.delivery.put import Deliverer
from headrace_core.delivery.take import BatchWorker

__all__ = ["BatchWorker", "Deliverer"]
