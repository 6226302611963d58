"""Runs of a grid on a cluster, with Ray (``pip install mnm-rl[ray]``): each run is one task with
one core.

The project, its environment and the runs are on storage that all machines share, at the same path.
"""

import dataclasses
import signal
import time
from pathlib import Path
from typing import Any

from experiments.command_line import INSTALLED, UsageError, first_line
from experiments.grids.grid import Job
from experiments.grids.schedule import LOST, start_locally

try:
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError
except ImportError:
    ray = None

ROOT = Path(__file__).parents[2]


class RayPool:
    """The machines of a Ray cluster, however many there are at the moment.

    Args:
        address: of the cluster's head, such as ``10.0.0.1:6379``; ``auto`` for the one that this
            machine belongs to.

    Raises:
        UsageError: if Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str) -> None:
        if ray is None:
            raise UsageError("a cluster needs Ray: pip install 'mnm-rl[ray]'")
        found = {} if INSTALLED else {"PYTHONPATH": str(ROOT)}
        try:
            ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": found})
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"there is no Ray cluster at {address}: {first_line(error)}"
            ) from error
        self._work = ray.remote(num_cpus=1, max_retries=0)(work)

    @property
    def workers(self) -> int:
        """The cores of the cluster."""
        return int(ray.cluster_resources().get("CPU", 0))

    def start(self, job: Job) -> "RayWorker":
        """Queue a run; where somebody else is at work on it, the task waits until it may go on."""
        return RayWorker(
            self._work.remote(dataclasses.replace(job, directory=job.directory.resolve())), job
        )


@dataclasses.dataclass
class RayWorker:
    """A run in a task of the cluster."""

    task: Any
    job: Job

    def poll(self) -> int | None:
        ready, _ = ray.wait([self.task], timeout=0)
        if not ready:
            return None
        try:
            return int(ray.get(self.task))
        except TaskCancelledError:
            return 130
        except RayTaskError as error:
            with open(self.job.log, "a") as log:
                log.write(f"{first_line(error.cause or error)}\n")
            return 1
        except RayError:  # the worker or its machine died
            return LOST

    def stop(self, number: signal.Signals) -> None:
        ray.cancel(self.task, force=number == signal.SIGKILL)


def work(job: Job) -> int:
    """Run or resume a run on the machine that this is called on, and give its exit code; saves it
    when it is cancelled."""
    worker = start_locally(job, wait_for_lock=True)
    if worker is None:
        return 0
    try:
        while (code := worker.poll()) is None:
            time.sleep(0.1)
    except KeyboardInterrupt:
        worker.stop(signal.SIGINT)
        return worker.process.wait()
    return code
