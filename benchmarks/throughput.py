"""How fast, and in how much memory: python -m benchmarks.throughput [--json FILE] [--plot FILE], or
make bench.

Cores: forward, backward and Adam on random inputs, each in a process of its own, beside a naive
PyTorch reference (:mod:`benchmarks.naive`) with the same parameters and the same results; nn.LSTM
is the reference of the LSTM. Then training on ``mnm/Maze-v0`` by A2C, rollout and update together,
beside RecurrentPPO of sb3-contrib with one epoch and an LSTM of the same width, once as it is (an
LSTM for the actor and one for the critic, batches of 128) and once as fast as it goes; and the maze
alone. Of repeated measurements the best counts: anything else on the machine can only slow one
down.

Memory is the peak of the process above what it held before the measurement. The bound is the rate
of a large float32 matrix product over the arithmetic that a step needs.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

import envs  # noqa: F401  (registers the maze)
from benchmarks.naive import naive_mnm, naive_plastic, whole_gru, whole_lstm
from mnm_rl import GruCore, LstmCore, MnmCore, PlasticCore

F, D = 16, 100
MAZE = "mnm/Maze-v0"
FASTEST_PPO = "RecurrentPPO, one LSTM, one batch"

CORES: dict[str, tuple[Callable[[int], Any], Callable[..., Any]]] = {
    "mnm-p": (lambda heads: MnmCore(F, D, "p", heads=heads), naive_mnm),
    "mnm-g": (lambda heads: MnmCore(F, D, "g", heads=heads), naive_mnm),
    "mnm-p-paper": (lambda heads: MnmCore(F, D, "p", heads=heads, variant="paper"), naive_mnm),
    "mnm-g-paper": (lambda heads: MnmCore(F, D, "g", heads=heads, variant="paper"), naive_mnm),
    "deltanet": (lambda heads: MnmCore(F, D, "delta", heads=heads, variant="paper"), naive_mnm),
    "plastic": (lambda heads: PlasticCore(F, D, "hebb"), naive_plastic),
    "plastic-modulated": (lambda heads: PlasticCore(F, D, "modulated"), naive_plastic),
    "gru": (lambda heads: GruCore(F, D), whole_gru),
    "lstm": (lambda heads: LstmCore(F, D), whole_lstm),
}


@dataclass
class Options:
    threads: int = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    """CPU threads."""
    seconds: float = 4.0
    """Seconds to measure each core for, and each agent for three times as long; at least twice."""
    rounds: int = 2
    """How often to measure everything, in turn with what it is compared with; the best counts."""
    json: Path | None = None
    """Where to write the figures."""
    plot: Path | None = None
    """Where to draw throughput and memory against the length of the sequence."""


def multiply_adds(core: str, H: int) -> float:
    """What a step of one environment needs, forward, backward and for the gradients of the
    weights."""
    if core in ("lstm", "gru"):
        return 3 * {"lstm": 4, "gru": 3}[core] * D * (F + D)
    if core.startswith("plastic"):
        # forward: U x, w h, (alpha * Hebb) h, the update; backward: twice that, and the gradient of
        # alpha
        return 3 * (F * D + D * D) + 3 * 3 * D * D + 2 * D * D
    made: MnmCore = CORES[core][0](H)
    M, L, rule = made.memory_size, made.memory.layers, made.memory.write_rule
    controller = (
        4 * D * (F + M + D)
        + D * (D + 3 * H * M)
        + D * (D + M)
        + (H * L * M * M if rule == "p" else 0)
    )
    # run, update, read and check; rule g: its deltas
    memory = 4 * H * L * M * M + (H * (L - 1) * M * M if rule == "g" else 0)
    return 3 * controller + 3 * memory


def matrix_product_rate(size: int = 2048, repeats: int = 20) -> float:
    """GFLOP/s of a float32 matrix product, the best of some."""
    a, b = torch.randn(2, size, size)
    return max(2 * size**3 / seconds(lambda: a @ b) / 1e9 for _ in range(repeats))


def seconds(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def best_of(do: Callable[[], object], total: float) -> float:
    """Seconds of the fastest run of at least two, after one that does not count."""
    do()
    best, started, runs = float("inf"), time.perf_counter(), 0
    while runs < 2 or time.perf_counter() - started < total:
        best, runs = min(best, seconds(do)), runs + 1
    return best


def memory(what: str) -> float:
    """MB of this process, now (``VmRSS``) or at its peak (``VmHWM``); 0 where Linux's /proc is not
    to be had."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(what)), 0.0)


def measure_core(
    core: str, naive: bool, B: int, T: int, H: int, total: float, path: str = "auto"
) -> dict[str, Any]:
    """Steps per second and peak memory of one core, in this process."""
    make, reference = CORES[core]
    model = make(H)
    model.path = path

    def forward(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if naive:
            outputs, meta_loss = reference(model, inputs)
        else:
            starts = torch.zeros(inputs.shape[:2], dtype=torch.bool)
            outputs, _, meta_loss = model(inputs, model.initial_state(inputs.shape[1]), starts)
        return outputs, meta_loss

    adam = torch.optim.Adam(model.parameters())

    def update(inputs: torch.Tensor) -> None:
        outputs, meta_loss = forward(inputs)
        (outputs.pow(2).mean() + meta_loss.mean()).backward()
        adam.step()
        adam.zero_grad()

    few = torch.randn(3, 4, F)
    update(few)  # kernels are compiled or loaded, and the optimizer has its state
    with torch.no_grad():
        outputs = model(few, model.initial_state(4), torch.zeros(3, 4, dtype=torch.bool))[0]
    torch.testing.assert_close(reference(model, few)[0].detach(), outputs, rtol=1e-3, atol=1e-3)

    inputs = torch.randn(T, B, F)
    idle = memory("VmRSS")
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    best = best_of(lambda: update(inputs), total)
    return {"steps_per_second": T * B / best, "memory_mb": max(memory("VmHWM") - idle, 0.0)}


def measure_training(agent: str, total: float) -> dict[str, Any]:
    """Steps per second of training on the maze, with 64 environments and rollouts of an episode."""
    n_envs, n_steps = 64, 200
    if agent.startswith("RecurrentPPO"):
        from sb3_contrib import RecurrentPPO

        from mnm_rl import GymnasiumVecEnv

        model = RecurrentPPO(
            "MlpLstmPolicy",
            GymnasiumVecEnv(gym.make_vec(MAZE, num_envs=n_envs)),
            n_steps=n_steps,
            n_epochs=1,
            device="cpu",
            **(
                dict(
                    batch_size=n_steps * n_envs,
                    policy_kwargs=dict(
                        lstm_hidden_size=D, shared_lstm=True, enable_critic_lstm=False, net_arch=[]
                    ),
                )
                if agent == FASTEST_PPO
                else dict(policy_kwargs=dict(lstm_hidden_size=D))
            ),
        )
        return {"steps_per_second": n_steps * n_envs / best_of(rollout_and_update(model), total)}
    update, steps = trainer(agent, n_envs)
    return {"steps_per_second": steps / best_of(update, total)}


def trainer(agent: str, n_envs: int, device: str = "cpu") -> tuple[Callable[[], None], int]:
    """A rollout and an update of A2C on the maze, and the steps of which they consist."""
    from agents import AGENTS
    from experiments.configuration import Run
    from experiments.run import build, make_env

    config = AGENTS[agent].defaults("a2c")
    run = Run(
        hyperparameters=config, env=MAZE, env_kwargs={}, total_timesteps=1, n_envs=n_envs, seed=0
    )
    model = build(run, make_env(run, n_envs, config.algorithm.reward_scale), device)
    return rollout_and_update(model), model.n_steps * n_envs


def rollout_and_update(model: Any) -> Callable[[], None]:
    """What a training of Stable-Baselines3 repeats."""
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(None, []))
    _, callback = model._setup_learn(0)

    def once() -> None:
        model.collect_rollouts(
            model.env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps
        )
        model.train()

    return once


def measure_maze(n_envs: int = 1024, steps: int = 500) -> dict[str, Any]:
    """Steps per second of the batched maze alone, with actions drawn beforehand, on one core."""
    env = gym.make_vec(MAZE, num_envs=n_envs)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(4, size=(steps, n_envs))
    return {
        "steps_per_second": steps * n_envs / best_of(lambda: [env.step(a) for a in actions], 3.0)
    }


def in_a_process(threads: int, **what: Any) -> dict[str, Any]:
    """Measure in a new process, so that neither memory nor warm caches of another measurement
    count."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.throughput",
        "--child",
        json.dumps(what | {"threads": threads}),
    ]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    return (
        json.loads(done.stdout)
        if done.returncode == 0
        else {"steps_per_second": None, "memory_mb": None}
    )


def child(threads: int, kind: str, **arguments: Any) -> None:
    torch.set_num_threads(threads)
    # What does not fit must fail here and not take the machine along.
    limit = int(0.9 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    measure = {"core": measure_core, "training": measure_training, "maze": measure_maze}[kind]
    print(json.dumps(measure(**arguments)))  # type: ignore[operator]


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 120)
    rate = matrix_product_rate()
    machine = {"threads": options.threads, "matrix_product_gflops": round(rate)}
    console.print(
        f"machine: float32 matrix product {rate:.0f} GFLOP/s on {options.threads} threads"
    )
    cores = []

    def core_row(core: str, B: int, T: int, H: int) -> dict[str, Any]:
        what = dict(kind="core", core=core, B=B, T=T, H=H, total=options.seconds)
        tries = [
            [in_a_process(options.threads, naive=naive, **what) for naive in (False, True)]
            for _ in range(options.rounds)
        ]
        ours, naive = (
            max(each, key=lambda m: m["steps_per_second"] or 0) for each in zip(*tries, strict=True)
        )
        bound = rate * 1e9 / (2 * multiply_adds(core, H))
        row = {
            "core": core,
            "B": B,
            "T": T,
            "H": H,
            "fused": ours,
            "naive": naive,
            "bound_steps_per_second": bound,
        }
        cores.append(row)
        return row

    table = Table(
        "core",
        "B",
        "T",
        "H",
        "steps/s",
        "naive",
        "ratio",
        "of bound",
        "MB",
        "naive MB",
        "ratio",
        title="Cores",
    )
    cases = [
        (core, B, 200, H)
        for B in (32, 128)
        for core in CORES
        for H in ((1, 4) if core.startswith("mnm") else (1,))
    ]
    cases += [
        (core, 16, T, 1)
        for core in ("mnm-p-paper", "mnm-g-paper", "plastic")
        for T in (50, 200, 1000)
    ]
    with console.status("measuring") as status:
        for core, B, T, H in cases:
            status.update(f"{core}, B={B}, T={T}, H={H}")
            row = core_row(core, B, T, H)
            ours, naive = row["fused"], row["naive"]
            table.add_row(
                *(
                    core,
                    str(B),
                    str(T),
                    str(H),
                    number(ours["steps_per_second"]),
                    number(naive["steps_per_second"]),
                ),
                ratio(ours["steps_per_second"], naive["steps_per_second"]),
                f"{ours['steps_per_second'] / row['bound_steps_per_second']:.0%}",
                *(
                    number(ours["memory_mb"]),
                    number(naive["memory_mb"]),
                    ratio(naive["memory_mb"], ours["memory_mb"]),
                ),
            )
    console.print(table)

    from agents import AGENTS

    training: dict[str, float] = {}
    with console.status("measuring") as status:
        for _ in range(options.rounds):
            for agent in ("RecurrentPPO", FASTEST_PPO, *AGENTS):
                status.update(agent)
                measured = in_a_process(
                    options.threads, kind="training", agent=agent, total=3 * options.seconds
                )
                training[agent] = max(training.get(agent, 0.0), measured["steps_per_second"] or 0.0)
    table = Table(
        "agent", "steps/s", "of RecurrentPPO", title=f"Training on {MAZE}, 64 environments"
    )
    for agent, speed in training.items():
        table.add_row(agent, number(speed), ratio(speed, training["RecurrentPPO"]))
    console.print(table)
    maze = in_a_process(1, kind="maze")["steps_per_second"]
    # of a shared machine, the better of two moments
    machine["matrix_product_gflops"] = round(max(rate, matrix_product_rate()))
    console.print(f"maze alone, 1,024 environments, one core: {number(maze)} steps/s")
    figures = {"machine": machine, "cores": cores, "training": training, "maze": maze}
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.plot is not None:
        draw(figures, options.plot)


def number(value: float | None) -> str:
    return "does not fit" if value is None else f"{value:,.0f}"


def ratio(a: float | None, b: float | None) -> str:
    return "" if not a or not b else f"{a / b:.1f}"


def draw(figures: dict[str, Any], path: Path) -> None:
    """Throughput and memory against the length of the sequence, fused and naive."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    rows = [row for row in figures["cores"] if row["B"] == 16]
    for i, core in enumerate(dict.fromkeys(row["core"] for row in rows)):
        for path_name, style in (("fused", "-o"), ("naive", "--o")):
            points = [(row["T"], row[path_name]) for row in rows if row["core"] == core]
            for axis, key in zip(axes, ("steps_per_second", "memory_mb"), strict=True):
                T, y = zip(*((t, point[key]) for t, point in points if point[key]), strict=True)
                axis.plot(T, y, style, color=f"C{i}", markersize=4, label=f"{core}, {path_name}")
    for axis, label in zip(axes, ("steps/s", "peak memory, MB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="steps in a sequence, T", ylabel=label)
        axis.set_xticks([50, 200, 1000], ["50", "200", "1000"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False
    )
    machine = "{threads} cores, {matrix_product_gflops} GFLOP/s".format(**figures["machine"])
    figure.suptitle(
        f"Forward, backward and Adam, 16 environments, D = 100 ({machine})", fontsize=10
    )
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(**json.loads(sys.argv[2]))
    else:
        main(tyro.cli(Options, description=__doc__))
