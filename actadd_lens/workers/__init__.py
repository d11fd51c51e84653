"""Work in other processes: the tasks of a job, done here or by the workers of any executor, with equal results."""

from actadd_lens.workers.crews import WorkerWarning, check_executor, done
from actadd_lens.workers.jobs import Desk, Job, Recipe
from actadd_lens.workers.pools import DASK_SETTINGS, WorkerPool, dask_client, worker_pool

__all__ = [
    "DASK_SETTINGS",
    "Desk",
    "Job",
    "Recipe",
    "WorkerPool",
    "WorkerWarning",
    "check_executor",
    "dask_client",
    "done",
    "worker_pool",
]
