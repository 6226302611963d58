"""What is printed can be read in a narrow terminal."""

import io
import re
import sys
from pathlib import Path

import pytest

from agents import AGENTS
from experiments.analysis.report import print_table
from experiments.configuration import Run
from experiments.run import metrics_of_run
from experiments.scores import Evaluation, Summary
from mnm_rl.callbacks import EpisodeMeans, ProgressBar
from mnm_rl.progress import ProgressLine, short


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *(
            (0, "0"),
            (999, "999"),
            (999.7, "1.0k"),
            (1000, "1.0k"),
            (12_340, "12.3k"),
            (999_949, "1.0M"),
            (3e6, "3.0M"),
        ),
        *((2.5e9, "2.5G"), (2**53, "9007199.3G")),
    ],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until it is set."""
    clock = Clock()
    monkeypatch.setattr("mnm_rl.progress.time", clock)
    return clock


def progress(total_timesteps: int, goals: float) -> ProgressBar:
    means = EpisodeMeans("goals")
    means._values.append(goals)
    bar = ProgressBar(means, interval=30)
    bar.locals = {"total_timesteps": total_timesteps}
    bar._on_training_start()
    return bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_progress_shows_steps_speed_time_left_and_score_in_one_line(
    columns: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress(123_456_789, goals=12.3)
    for _ in range(ProgressLine.WARM_UP):
        bar._on_rollout_end()
    bar.num_timesteps, clock.now = 23_456_789, 10_000
    bar._on_rollout_end()
    bar.close()
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).splitlines()[-1]
    assert line.strip("\r ━╸╺") == "23.5M/123.5M  2.3k steps/s  11:50:32 left  goals 12.30"
    assert "━" in line
    assert len(line.strip("\r")) <= columns


def test_without_a_terminal_progress_is_a_line_now_and_then(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = progress(60_000, goals=1.5)
    for _ in range(5):
        bar.num_timesteps += 10_000
        clock.now += 20
        bar._on_rollout_end()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "20.0k/60.0k  goals 1.50"
    assert second == "40.0k/60.0k  500 steps/s  0:00:40 left  goals 1.50"


def test_speed_does_not_count_the_compilation_of_kernels(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine(100, "updates", interval=0.5)
    for done, now in ((1, 60.0), (2, 120.0), (3, 121.0), (4, 122.0)):
        clock.now = now
        line.show(done)
    assert capsys.readouterr().err.splitlines()[-1] == "4/100  1 updates/s  0:01:36 left"


def test_no_speed_is_shown_while_nothing_is_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by batches of stories that ask nothing."""
    line = ProgressLine(1_000_000_000, "questions", interval=0)
    for clock.now in range(1, 6):
        line.show(7)
    assert set(capsys.readouterr().err.splitlines()) == {"7/1.0G"}


RANDOM, AGENT, ORACLE = (
    Summary(
        {
            "goals": mean / 10,
            "steps_to_first_goal": first,
            "mean_steps_between_goals": 10.1,
            "return": mean,
        },
        (mean - 3.3, mean + 3.3),
    )
    for mean, first in ((14.2, 53.9), (-123.4, 100.0), (276.1, 10.2))
)


def evaluation(agent: str, references: dict[str, Summary]) -> Evaluation:
    run = Run(
        hyperparameters=AGENTS[agent].defaults(),
        env="mnm/Maze-v0",
        env_kwargs={},
        total_timesteps=100,
        n_envs=2,
        seed=4,
    )
    return Evaluation(Path("run"), run, 2_000_000, 512, metrics_of_run(run), AGENT, references)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    "references", [{}, {"random": RANDOM, "oracle": ORACLE}], ids=["any environment", "maze"]
)
def test_a_table_has_one_line_a_row_and_whole_numbers(
    columns: int,
    agent: str,
    references: dict[str, Summary],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table([evaluation(agent, references), evaluation("lstm", references)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert not any("…" in line for line in lines)
    for name in (agent, "lstm", *references):
        (line, *_) = (line for line in lines if line.split()[:1] == [name])
        interval = {"random": "[-0.01, 0.01]", "oracle": "[0.99, 1.01]"}.get(name)
        assert line.strip().endswith(
            interval or ("[-0.54, -0.51]" if references else "[-126.70, -120.10]")
        )
    header = next(line for line in lines if line.startswith("agent")).split()
    assert {"agent", "seed", "[95%]"} <= set(header)
    assert {"goals", "score"} <= set(header) or not references
    assert columns < 80 or {"steps", "return", "goals"} <= set(header)
    assert columns < 120 or {"first", "again"} <= set(header)
    assert ("first: time to the first goal (steps)" in lines) == ("first" in header)
