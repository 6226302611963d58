"""A grid on a cluster of two machines, one of which goes away."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import make_pool
from experiments.command_line import UsageError
from experiments.grids.display import Display
from experiments.grids.grid import Grid, Job
from experiments.grids.schedule import run_jobs
from experiments.run import read_progress


def test_a_cluster_without_ray_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.grids.cluster.ray", None)
    with pytest.raises(UsageError, match=r"pip install 'mnm-rl\[ray\]'"):
        make_pool(None, "auto")
    with pytest.raises(UsageError, match="--workers is for this machine"):
        make_pool(2, "auto")


@pytest.fixture
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'mnm-rl[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class Outage(Display):
    """Takes a machine away as soon as all runs have a checkpoint."""

    def __init__(self, jobs: Sequence[Job], cluster: Any, machine: Any) -> None:
        super().__init__(jobs)
        self.cluster, self.machine = cluster, machine
        self.lost: list[Job] = []

    def update(self, running: Sequence[Job]) -> None:
        if self.machine is not None and all(job.resumable for job in self.jobs):
            self.cluster.remove_node(self.machine, allow_graceful=False)
            self.machine = None

    def ended(self, job: Job, lost: bool) -> None:
        if lost:
            self.lost.append(job)


@pytest.mark.filterwarnings("default")
def test_a_run_whose_machine_goes_away_goes_on_at_another(cluster: Any, tmp_path: Path) -> None:
    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    file = tmp_path / "small.toml"
    file.write_text(
        'title = "Small"\nagents = ["lstm", "rnn"]\nenvironments = ["mnm/MazeSmall-v0 '
        'horizon=20"]\n'
        "seeds = 1\ntotal_timesteps = 16_000\nn_envs = 8\ncheckpoint_interval = 320\n"
    )
    jobs = Grid.load(file).jobs(tmp_path)
    pool: Any = make_pool(None, cluster.address)
    assert pool.workers == 2
    outage = Outage(jobs, cluster, machines[0])
    run_jobs(jobs, pool, outage, interval=0.1)
    assert all(job.finished for job in jobs)
    assert len(outage.lost) == 1
    for job in jobs:
        commands = [line for line in job.log.read_text().splitlines() if line.startswith("$")]
        assert [("--resume" in command) for command in commands] == (
            [False, True] if job in outage.lost else [False]
        )
        steps = [row["time/total_timesteps"] for row in read_progress(job.directory)]
        assert steps == sorted(set(steps))
        assert steps[-1] == 16_000
