"""arq and Redis: deliveries on their way to a worker.

Redis holds ids only, and nothing that PostgreSQL could not rebuild. A delivery is an arq job whose
id is `{job}:{attempt}`; the workers of a pool share one arq queue.
"""

from headrace_core.delivery.put import Deliverer
from headrace_core.delivery.take import BatchWorker

__all__ = ["BatchWorker", "Deliverer"]
