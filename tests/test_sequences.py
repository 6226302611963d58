"""Sequence learning without reinforcement learning: what is minimized, what the command writes, how
it fails; and its grids."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from agents import AGENTS
from docs import tables
from envs.memory_tasks import TASKS
from experiments import sequences
from experiments.command_line import run_main
from experiments.supervised import (
    Batch,
    SequenceModel,
    Trainer,
    Training,
    build_core,
)
from mnm_rl import TrainingDivergedError
from studies import memory

SMALL = ["--task-kwargs", "pairs=2", "--hidden-size", "16", "--batch-size", "32", "--threads", "1"]


def command(*args: object) -> tuple[int, str, str]:
    """Run the command within this process: exit code, standard output, standard error output."""
    stdout, stderr, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["sequences", *map(str, args)]
    try:
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            pytest.raises(SystemExit) as exit_,
        ):
            run_main(sequences.main)
    finally:
        sys.argv = before
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, stdout.getvalue(), stderr.getvalue()


def trained(out: Path, *args: object) -> Any:
    code, _, stderr = command("recall", *args, "--out", out)
    assert code == 0, stderr
    return json.loads(out.read_text())


def trainer(agent: str = "mnm-p", **changes: Any) -> tuple[Trainer, Batch]:
    """A small model of an agent for the recall of two pairs, and a batch of it."""
    task = TASKS["recall"](pairs=2)
    core = build_core(AGENTS[agent](hidden_size=8), task.observation_size)
    model = SequenceModel(nn.Identity(), core, task.n_answers)
    return Trainer(model, Training(**changes)), sequences.episodes(
        task, np.random.default_rng(0), 6
    )


def test_pairs_are_recalled_and_the_result_says_how_soon(tmp_path: Path) -> None:
    result = trained(tmp_path / "result.json", "mnm-p", *SMALL, "--until", 0.97, "--updates", 600)
    last = result["evaluations"][-1]
    assert last["accuracy"] >= 0.97
    assert last["updates"] < 600
    assert all(evaluation["accuracy"] < 0.97 for evaluation in result["evaluations"][:-1])
    assert [evaluation["updates"] for evaluation in result["evaluations"]] == list(
        range(20, last["updates"] + 1, 20)
    )
    assert result["task_kwargs"] == {"pairs": 2}
    assert result["hyperparameters"]["write_rule"] == "p"
    assert "gamma" not in result["hyperparameters"]
    assert result["versions"]["torch"] == torch.__version__


def test_the_same_seed_gives_the_same_result(tmp_path: Path) -> None:
    runs = [
        trained(
            tmp_path / f"{i}.json",
            "lstm",
            *SMALL,
            "--updates",
            40,
            "--episodes",
            32,
            "--seed",
            seed,
        )
        for i, seed in enumerate((1, 1, 2))
    ]
    first, again, other = ([(e["loss"], e["accuracy"]) for e in run["evaluations"]] for run in runs)
    assert first == again != other


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_learns_by_its_own_core(agent: str) -> None:
    train, batch = trainer(agent)
    assert type(train.model.core).__name__.removesuffix("Core") in AGENTS[agent].policy
    before = [p.clone() for p in train.parameters]
    train.update(batch)
    assert any(not torch.equal(b, p) for b, p in zip(before, train.parameters, strict=True))


def test_what_is_minimized_is_cross_entropy_and_meta_loss() -> None:
    train, batch = trainer(meta_coef=0.3)
    core, head = train.model.core, train.model.head
    outputs, _, meta_loss = core(batch.observations, core.initial_state(6), batch.starts)
    answers = F.cross_entropy(head(outputs[2:]).flatten(0, 1), batch.targets[2:].flatten())
    wanted = torch.autograd.grad(
        answers + 0.3 * meta_loss.mean(), train.parameters, allow_unused=True
    )
    loss, norm = train.gradients(batch)
    torch.testing.assert_close(loss, answers.detach())
    scale = min(1, train.training.max_grad_norm / norm.item())
    for parameter, gradient in zip(train.parameters, wanted, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, scale * gradient, rtol=1e-3, atol=1e-5)


def test_steps_after_the_end_of_an_episode_do_not_count() -> None:
    task = TASKS["copy"](items=5, min_items=1)
    batch = sequences.episodes(task, np.random.default_rng(0), 20)
    for targets, counts in zip(batch.targets.T, batch.counts.T, strict=True):
        assert counts.sum() == 2 * (targets >= 0).sum()  # as many steps show as ask
        assert counts[: int(counts.sum())].all()
    model = SequenceModel(
        nn.Identity(),
        build_core(AGENTS["mnm-p"](hidden_size=8), task.observation_size),
        task.n_answers,
    )
    changed = torch.where(
        batch.counts[..., None], batch.observations, torch.rand_like(batch.observations)
    )
    with_padding, without = model(batch), model(batch._replace(observations=changed))
    torch.testing.assert_close(with_padding[:2], without[:2])  # all but the state after it


def test_a_gradient_that_is_not_finite_ends_it_and_leaves_the_parameters() -> None:
    train, batch = trainer()
    before = [p.clone() for p in train.parameters]
    with pytest.raises(
        TrainingDivergedError, match="at update 1: a smaller --learning-rate may help"
    ):
        train.update(batch._replace(observations=batch.observations * torch.nan))
    assert all(torch.equal(b, p) for b, p in zip(before, train.parameters, strict=True))


def test_longer_sequences_than_trained_can_be_tested(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    small = [
        "--task-kwargs",
        "items=3",
        "--hidden-size",
        8,
        "--updates",
        20,
        "--episodes",
        20,
        "--threads",
        1,
    ]
    code, stdout, stderr = command(
        "copy", "lstm", *small, "--test", "items=6", "items=9,min_items=2", "--out", out
    )
    assert code == 0, stderr
    tests = json.loads(out.read_text())["evaluations"][-1]["tests"]
    assert tests.keys() == {"items=6", "items=9,min_items=2"}
    assert f"items=6: {tests['items=6']:.1%}" in stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name a task and an agent first"),
        (["recall"], "name a task and an agent first"),
        (["recal", "lstm"], "unknown task 'recal': it must be one of recall, dictionary"),
        (["recall", "lsdm"], "unknown agent 'lsdm': it must be one of mnm-g"),
        (["recall", "lstm", "--gamma", "0.9"], "--gamma"),
        (["recall", "lstm", "--hidden-size", "0"], "--hidden-size must be from 1"),
        (["recall", "lstm", "--until", "99"], "--until must be a share from 0 to 1"),
        (
            ["recall", "lstm", "--task-kwargs", "pairs"],
            "--task-kwargs takes name=value pairs such as pairs=8",
        ),
        (["recall", "lstm", "--task-kwargs", "pears=8"], "the task recall cannot be made"),
        (["recall", "lstm", "--test", "pairs=16"], "--test pairs=16 has another observation_size"),
        (["recall", "lstm", "--out", __file__], "is there already"),
    ],
)
def test_wrong_usage_is_one_clear_line(args: list[str], message: str) -> None:
    code, _, stderr = command(*args)
    assert code == 2
    assert len(stderr.splitlines()) == 1
    assert message in stderr


@pytest.mark.parametrize("agent", AGENTS)
def test_only_what_counts_here_is_asked_for_on_the_command_line(agent: str) -> None:
    code, _, stderr = command("recall", agent, "--gamma", "0.5")
    assert code == 2
    assert "--gamma" in stderr
    _, _, options = sequences.parse_options(
        ["recall", agent, "--learning-rate", "0.5", "--hidden-size", "6", "--meta-coef", "2"]
    )
    assert options.training == Training(learning_rate=0.5, meta_coef=2)
    assert options.core == AGENTS[agent](hidden_size=6)
    assert build_core(options.core, 5).output_size == 6


def result(agent: str, rate: float, seed: int, accuracy: list[float]) -> dict[str, Any]:
    evaluations = [
        {"updates": 20 * i, "seconds": 0.5 * i, "accuracy": share}
        for i, share in enumerate(accuracy, start=1)
    ]
    of_task = {"task": "recall", "task_kwargs": {"pairs": 2}}
    return of_task | {
        "agent": agent,
        "seed": seed,
        "parameters": 10,
        "hyperparameters": {"learning_rate": rate},
        "evaluations": evaluations,
    }


def test_of_several_step_sizes_the_one_that_learns_soonest_is_shown(tmp_path: Path) -> None:
    runs = [
        result("lstm", 1e-3, 0, [0.2, 0.4, 0.5]),
        result("lstm", 4e-3, 0, [0.5, 1.0]),
        result("lstm", 4e-3, 1, [0.4, 0.8, 0.995]),
        result("mnm-p", 1e-3, 0, [0.1, 0.2, 0.3]),
    ]
    files = [tmp_path / f"{i}.json" for i in range(len(runs))]
    for file, run in zip(files, runs, strict=True):
        file.write_text(json.dumps(run))
    shown = memory.collect(files)
    assert [(run["agent"], run["learning_rate"], run["seed"]) for run in shown] == [
        ("lstm", 4e-3, 0),
        ("lstm", 4e-3, 1),
        ("mnm-p", 1e-3, 0),
    ]
    assert [memory.solved(run, "updates") for run in shown] == [40, 60, None]
    assert [memory.solved(run, "seconds") for run in shown] == [1.0, 1.5, None]
    mean, half = memory.band(shown[:2], "updates", np.array([40.0, 60.0]))
    np.testing.assert_allclose(mean, [0.9, 0.9975])  # the first stays at 1 after its end
    np.testing.assert_allclose(half, 12.706 * np.array([0.1, 0.0025]), rtol=1e-3)
    memory.draw(shown, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_grid_draws_what_it_was_tested_with(tmp_path: Path) -> None:
    curves = {"updates": [50, 100], "seconds": [1.0, 2.0], "accuracy": [0.5, 0.99]}
    tests = {"support=8,min_string_length=4": 0.9, "min_items=3": 0.4}
    common = {"task": "dictionary", "task_kwargs": {"support": 4}} | curves | {"tests": tests}
    memory.draw(
        [
            common | {"agent": agent, "seed": seed}
            for agent in ("lstm", "salu")
            for seed in range(2)
        ],
        tmp_path / "figure.png",
    )
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert [memory.in_words(test) for test in tests] == ["support 8", "min items 3"]


def test_a_grid_runs_what_has_not_been_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = memory.Grid(task="recall", settings=[{"pairs": 2}], agents=("lstm", "gru"), seeds=2)
    monkeypatch.setitem(memory.GRIDS, "recall", grid)
    ran: list[str] = []

    def subprocess_run(words: list[str], **_: Any) -> Any:
        sequences.parse_options(words[3:])  # it is a command line
        ran.append(out := words[-1])
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(
            json.dumps(result(words[4], 4e-3, int(words[words.index("--seed") + 1]), [0.5, 1.0]))
        )
        return type("Done", (), {"returncode": 0, "stdout": "done", "stderr": ""})

    monkeypatch.setattr(memory.subprocess, "run", subprocess_run)
    options = memory.Options(
        grid="recall", processes=1, runs=tmp_path / "runs", json=tmp_path / "figures.json"
    )
    memory.main(options)
    assert len(ran) == 4
    memory.main(options)
    assert len(ran) == 4
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [(run["agent"], run["seed"]) for run in figures["runs"]] == [
        ("lstm", 0),
        ("lstm", 1),
        ("gru", 0),
        ("gru", 1),
    ]


def test_the_table_says_how_soon_a_task_is_solved_and_what_becomes_of_other_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = {"task_kwargs": {"pairs": 2}, "updates": [10, 20], "seconds": [1.0, 2.0]}
    monkeypatch.setattr(memory, "timed_by", lambda runs, _: runs)
    runs = [
        row | {"agent": "mnm-p", "seed": 0, "accuracy": [0.5, 1.0], "tests": {"pairs=4": 0.75}},
        row | {"agent": "mnm-p", "seed": 1, "accuracy": [1.0, 1.0], "tests": {"pairs=4": 0.5}},
        row | {"agent": "lstm", "seed": 0, "accuracy": [0.2, 0.5], "tests": {"pairs=4": 0.25}},
    ]
    monkeypatch.setattr(tables, "read", lambda file: {"runs": runs})
    head, _, mnm, lstm, _, note = tables.memory_task("figures.json").splitlines()
    assert head == "| agent | updates to 99% | right, pairs 4 |"
    assert mnm == "| mnm-p | 20, 10 (1.5 s) | 75%, 50% |"
    assert lstm == "| lstm | 50% | 25% |"
    assert "a share is what is right after 20 updates" in note


def test_seconds_can_be_those_of_a_quiet_machine(tmp_path: Path) -> None:
    file = tmp_path / "seconds.json"
    file.write_text('{"recall: 2 pairs": {"mnm-p": 0.5}}')
    run = {"task": "recall", "task_kwargs": {"pairs": 2}, "agent": "mnm-p", "updates": [10, 20]}
    (timed,) = memory.timed_by([run | {"seconds": [99.0, 999.0]}], file)
    assert timed == run | {"seconds": [5.0, 10.0]}
    with pytest.raises(SystemExit, match="has no seconds of lstm on recall: 2 pairs"):
        memory.timed_by([run | {"agent": "lstm"}], file)


@pytest.mark.parametrize("name", memory.GRIDS)
def test_committed_runs_have_the_models_of_their_grids(name: str) -> None:
    grid, shown = memory.GRIDS[name], tables.read(f"memory_{name}.json")["runs"]
    sizes = {}
    for line in memory.commands(grid, memory.Options(grid=grid.task)):
        _, agent, options = sequences.parse_options(line)
        changes = sequences.key_values(options.task_kwargs)
        task = sequences.make_task(grid.task, changes)
        core = build_core(options.core, task.observation_size)
        model = SequenceModel(nn.Identity(), core, task.n_answers)
        sizes[agent, str(changes)] = sum(p.numel() for p in model.parameters())
    for run in shown:
        assert run["parameters"] == sizes[run["agent"], str(run["task_kwargs"])], run["agent"]


@pytest.mark.parametrize("name", memory.GRIDS)
def test_the_settings_of_the_grids_are_those_of_the_tasks(name: str) -> None:
    grid = memory.GRIDS[name]
    for changes in grid.settings:
        task = sequences.make_task(grid.task, changes)
        for test in grid.tests:
            sequences.like(
                task,
                test,
                sequences.make_task(grid.task, changes | sequences.key_values(test.split(","))),
            )
