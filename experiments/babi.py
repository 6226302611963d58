"""Train any core on the stories of bAbI, all tasks together: python -m experiments.babi PATH AGENT
[options].

Weston et al. (2015) made the stories; each sentence is one step here, encoded as in Sukhbaatar et
al. (2015), and the question is the last one. The same command goes on with a run that was stopped.
"""

import os
import signal

# the imports take seconds: until run_main takes over, Ctrl-C ends without a traceback
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # PyTorch's threads wait asleep: ten times as fast on a busy core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from agents import AGENTS, Agent
from experiments.command_line import (
    MAX_SEED,
    InterruptedRun,
    RunError,
    UsageError,
    check_range,
    first_line,
    parse,
    run_main,
)
from experiments.supervised import (
    Batch,
    ProgressLine,
    SequenceModel,
    Trainer,
    Training,
    build_core,
    find_agent,
    names,
    versions,
    write_json,
)
from mnm_rl.files import replacing

USAGE = f"""usage: python -m experiments.babi PATH AGENT [options]

PATH is a folder of the public data, such as tasks_1-20_v1-2/en-10k.
AGENT is one of {", ".join(AGENTS)}.
Options: python -m experiments.babi PATH AGENT --help"""

TASKS = {
    1: "single supporting fact",
    2: "two supporting facts",
    3: "three supporting facts",
    4: "two-argument relations",
    5: "three-argument relations",
    6: "yes/no questions",
    7: "counting",
    8: "lists and sets",
    9: "simple negation",
    10: "indefinite knowledge",
    11: "basic coreference",
    12: "conjunction",
    13: "compound coreference",
    14: "time reasoning",
    15: "basic deduction",
    16: "basic induction",
    17: "positional reasoning",
    18: "size reasoning",
    19: "path finding",
    20: "agent's motivations",
}

FAILED = 0.05
"""A task is failed with a larger share of wrong answers (Weston et al. 2015)."""


class Stories(NamedTuple):
    """N questions, each with the sentences of its story that come before it."""

    sentences: NDArray[np.int64]
    """The sentences of all of them, by number, each question the last of its own."""
    ends: NDArray[np.int64]
    """Where in ``sentences`` each one ends, ``[N]``."""
    answers: NDArray[np.int64]
    """``[N]``."""
    tasks: NDArray[np.int64]
    """``[N]``."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of sentences of each, ``[N]``."""
        return np.diff(self.ends, prepend=0)


class Data(NamedTuple):
    """The stories to train and to test on, with their sentences and answers."""

    train: Stories
    test: Stories
    sentences: list[tuple[str, ...]]
    """The words of each sentence, by its number."""
    answers: list[str]
    """By number; an answer of several words is one answer."""


def load(path: Path, tasks: Sequence[int] = tuple(TASKS)) -> Data:
    """Read tasks from a folder of the public data: every ``qa<task>_*train.txt`` and every
    ``qa<task>_*test.txt``.

    Raises:
        UsageError: if there is no such file for a task, or one is not in the format.
    """
    sentences: dict[tuple[str, ...], int] = {}
    answers: dict[str, int] = {}

    def stories(part: str) -> Stories:
        numbers: tuple[list[int], ...] = ([], [], [], [])
        of_stories, ends, right, of_task = numbers
        for task in tasks:
            files = sorted(path.glob(f"qa{task}_*{part}.txt"))
            if not files:
                raise UsageError(
                    f"there is no qa{task}_*{part}.txt in {path}: add one, or leave the task out "
                    "with --tasks"
                )
            for story, answer in (question for file in files for question in read(file)):
                of_stories += [sentences.setdefault(sentence, len(sentences)) for sentence in story]
                ends.append(len(of_stories))
                right.append(answers.setdefault(answer, len(answers)))
                of_task.append(task)
        return Stories(*(np.array(column, dtype=np.int64) for column in numbers))

    train, test = stories("train"), stories("test")
    return Data(train, test, list(sentences), list(answers))


def read(file: Path) -> Iterator[tuple[list[tuple[str, ...]], str]]:
    """The questions of a file, each with the sentences before it, and the answer.

    Raises:
        UsageError: if a line is not in the format.
    """
    story: list[tuple[str, ...]] = []
    for n, line in enumerate(file.read_text().splitlines(), start=1):
        number, _, text = line.partition(" ")
        sentence, *supported = text.split("\t")
        words = tuple(sentence.lower().replace("?", " ? ").replace(".", " ").split())
        if (
            not (number.isdigit() and words)
            or (number != "1" and n == 1)
            or (supported and not supported[0].strip())
        ):
            raise UsageError(
                f"{file}, line {n}: must be a number, a sentence and, for a question, tab and "
                f"answer, got {line[:60]!r}"
            )
        if number == "1":
            story = []
        if supported:
            yield [*story, words], supported[0].strip().lower()
        else:
            story.append(words)


def features(sentences: Sequence[Sequence[str]]) -> Tensor:
    """Sentences as vectors ``[S, 2V]`` that :class:`SentenceEncoder` makes position-weighted sums
    of the V words' embeddings from.

    Sukhbaatar et al. (2015), section 4.1: word j of J has the weights ``(1 - j/J) - (k/d) (1 -
    2j/J)`` in dimension k of d. The sum over the words is then that with weights ``1 - j/J``, less
    k/d times that with weights ``1 - 2j/J``; both weights of each word of the vocabulary are here,
    side by side.
    """
    vocabulary = {
        word: i
        for i, word in enumerate(sorted({word for sentence in sentences for word in sentence}))
    }
    weights = torch.zeros(len(sentences), 2, len(vocabulary))
    for row, sentence in zip(weights, sentences, strict=True):
        for j, word in enumerate(sentence, start=1):
            row[:, vocabulary[word]] += torch.tensor(
                [1 - j / len(sentence), 1 - 2 * j / len(sentence)]
            )
    return weights.flatten(1)


class SentenceEncoder(nn.Module):
    """Position-weighted sums of word embeddings, from what :func:`features` gives.

    Args:
        words: size V of the vocabulary.
        width: of the embeddings, d.
    """

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.empty(words, width).normal_(std=SCALE))
        self.register_buffer("k", torch.arange(1, width + 1) / width, persistent=False)
        self.k: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """``[..., 2V]`` to ``[..., d]``."""
        first, second = x.chunk(2, dim=-1)
        return first @ self.embeddings - self.k * (second @ self.embeddings)


SCALE = 0.7
"""Standard deviation of the first embeddings, with which a sentence of six words has numbers of
about unit scale."""


class Packed(NamedTuple):
    """Stories in the rows of a batch, one after the other."""

    sentences: NDArray[np.int64]
    """Their numbers, ``[T, B]``, and -1 after the last story of a row."""
    asked: NDArray[np.int64]
    """The number of the story whose question a step is, -1 at other steps, ``[T, B]``."""
    starts: NDArray[np.bool_]
    """Where a story begins after another, ``[T, B]``."""

    def batch(self, stories: Stories, features: Tensor) -> Batch:
        """What a model is trained and tested with."""
        numbers, asked = torch.from_numpy(self.sentences), torch.from_numpy(self.asked)
        counts = numbers >= 0
        answers = torch.from_numpy(stories.answers)
        targets = torch.where(asked >= 0, answers[asked.clamp(min=0)], -1)
        return Batch(
            features[numbers.clamp(min=0)] * counts[..., None],
            targets,
            torch.from_numpy(self.starts),
            counts,
        )


def pack(stories: Stories, order: NDArray[np.int64], rows: int) -> Iterator[Packed]:
    """Put stories into batches of rows as long as the longest one, so that hardly a step is left
    empty and tasks are mixed.

    Each story goes to the row with most room. What finds no room waits for the next batch; a batch
    is full when as many stories as it has rows wait.

    Args:
        stories: the stories.
        order: their numbers in the order in which they are taken.
        rows: B, rows of a batch.
    """
    lengths = stories.lengths
    T, waiting, turn = int(lengths.max()), list[int](), iter(order.tolist())
    while True:
        filled: list[list[int]] = [[] for _ in range(rows)]
        room = [T] * rows
        candidates, waiting = waiting, []
        while (
            len(waiting) < rows
            and (story := candidates.pop(0) if candidates else next(turn, None)) is not None
        ):
            row = room.index(max(room))
            if lengths[story] <= room[row]:
                filled[row].append(story)
                room[row] -= int(lengths[story])
            else:
                waiting.append(story)
        waiting += candidates
        if not any(filled):
            return
        yield _packed(stories, [row for row in filled if row])


def _packed(stories: Stories, rows: Sequence[Sequence[int]]) -> Packed:
    lengths = stories.lengths
    T = max(int(lengths[row].sum()) for row in rows)
    sentences, asked = np.full((T, len(rows)), -1), np.full((T, len(rows)), -1)
    starts = np.zeros((T, len(rows)), dtype=bool)
    for b, row in enumerate(rows):
        t = 0
        for story in row:
            end = t + int(lengths[story])
            sentences[t:end, b] = stories.sentences[
                stories.ends[story] - lengths[story] : stories.ends[story]
            ]
            asked[end - 1, b] = story
            starts[t, b] = t > 0
            t = end
    return Packed(sentences, asked, starts)


def errors(model: SequenceModel, stories: Stories, features: Tensor, rows: int) -> dict[str, float]:
    """The share of wrong answers by task."""
    wrong = np.ones(len(stories.answers), dtype=bool)
    for packed in pack(stories, np.argsort(-stories.lengths, kind="stable"), rows):
        wrong[packed.asked[packed.asked >= 0]] = ~model.right(
            packed.batch(stories, features)
        ).numpy()
    return {
        str(task): float(wrong[stories.tasks == task].mean()) for task in np.unique(stories.tasks)
    }


@dataclass(frozen=True, kw_only=True)
class Options:
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    """Of the training."""
    core: tyro.conf.OmitArgPrefixes[Agent]
    """Of the agent's core."""
    tasks: tuple[int, ...] = tuple(TASKS)
    """Tasks to train and test on, together."""
    epochs: int = 50
    """How often every question is seen; over them the step size falls to 0 in a straight line."""
    rows: int = 8
    """Sequences of an update, each as long as the longest story, and filled with stories."""
    embedding_size: int = 100
    """Width of the embeddings of words."""
    seed: int = 0
    """Seed of the weights and of the order of the stories."""
    checkpoint_interval: int = 300
    """Seconds between two checkpoints; there is one after every epoch as well."""
    out: Path | None = None
    """Where checkpoint and result go, and are looked for (default: runs/babi/<agent>/seed<S>)."""
    threads: int | None = None
    """CPU threads (default: all cores)."""


class Run:
    """A training, its state in ``checkpoint.pt`` and its result in ``result.json`` of a directory.

    Args:
        data: the stories.
        options: how to train.

    Raises:
        UsageError: if the directory has the checkpoint of another training.
        RunError: if the checkpoint is damaged.
    """

    def __init__(self, data: Data, options: Options) -> None:
        self.data, self.options = data, options
        agent = options.core
        hyperparameters = asdict(options.training) | agent.arguments()
        self.settings = {"agent": agent.name, "hyperparameters": hyperparameters} | {
            name: getattr(options, name) for name in ("epochs", "rows", "embedding_size", "seed")
        }
        self.settings |= {
            "tasks": list(options.tasks),
            "questions": [len(data.train.answers), len(data.test.answers)],
        }
        self.directory = options.out or Path("runs") / "babi" / agent.name / f"seed{options.seed}"
        self.directory.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(options.seed)
        self.features = features(data.sentences)
        encoder = SentenceEncoder(self.features.shape[1] // 2, options.embedding_size)
        self.model = SequenceModel(
            encoder, build_core(agent, options.embedding_size), len(data.answers)
        )
        self.trainer = Trainer(self.model, options.training)
        self.losses: list[float] = []  # of the epoch
        self.history: list[dict[str, Any]] = []  # of the epochs before
        self._resume()

    def _resume(self) -> None:
        path = self.directory / "checkpoint.pt"
        if not path.exists():
            return
        try:
            saved = torch.load(path, weights_only=True)
        except Exception as error:  # of many kinds, depending on where the damage is
            raise RunError(
                f"{path} is damaged ({first_line(error)}): delete it to begin anew"
            ) from error
        before = saved["settings"]
        # earlier versions did not write the weight of a meta-loss that a core does not have
        before["hyperparameters"] = {"meta_coef": Training.meta_coef} | before["hyperparameters"]
        changed = [name for name, value in self.settings.items() if before.get(name) != value]
        if changed:
            raise UsageError(
                f"{self.directory} holds a run with other settings ({', '.join(changed)}); give "
                "--out another name"
            )
        self.model.load_state_dict(saved["model"])
        self.trainer.optimizer.load_state_dict(saved["optimizer"])
        self.trainer.updates, self.trainer.seconds = saved["updates"], saved["seconds"]
        self.losses, self.history = saved["losses"], saved["history"]

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        state = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "updates": self.trainer.updates,
            "seconds": self.trainer.seconds,
            "losses": self.losses,
            "history": self.history,
        }
        with replacing(self.directory / "checkpoint.pt") as file:
            torch.save(state, file)

    def train(self) -> None:
        """Train for the epochs that are left."""
        saved, n = time.perf_counter(), len(self.data.train.answers)
        with ProgressLine(
            self.options.epochs * n, "questions", done=len(self.history) * n
        ) as progress:
            while len(self.history) < self.options.epochs:
                epoch = len(self.history)
                order = np.random.default_rng([self.options.seed, epoch]).permutation(n)
                answered = 0
                for i, packed in enumerate(pack(self.data.train, order, self.options.rows)):
                    answered += int((packed.asked >= 0).sum())
                    if i < len(self.losses):  # those were before the checkpoint
                        continue
                    for group in self.trainer.optimizer.param_groups:
                        left = 1 - (epoch + (answered - 1) / n) / self.options.epochs
                        group["lr"] = self.options.training.learning_rate * left
                    self.losses.append(
                        self.trainer.update(packed.batch(self.data.train, self.features))
                    )
                    progress.show(
                        epoch * n + answered,
                        f"loss {np.mean(self.losses[-100:]):.3f}{self._last()}",
                    )
                    if time.perf_counter() - saved > self.options.checkpoint_interval:
                        self.save()
                        saved = time.perf_counter()
                self._end_of_epoch()
                self.save()
                saved = time.perf_counter()

    def _end_of_epoch(self) -> None:
        by_task = errors(self.model, self.data.test, self.features, self.options.rows)
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "updates": self.trainer.updates,
                "seconds": round(self.trainer.seconds, 1),
                "loss": round(float(np.mean(self.losses)), 5),
                "mean_error": float(np.mean(list(by_task.values()))),
                "failed": sum(error > FAILED for error in by_task.values()),
                "errors": {task: round(error, 6) for task, error in by_task.items()},
            }
        )
        self.losses = []
        machine = {"threads": torch.get_num_threads(), "versions": versions()}
        parameters = {"parameters": sum(p.numel() for p in self.model.parameters())}
        write_json(
            self.directory / "result.json",
            self.settings | parameters | machine | {"epochs_done": self.history},
        )
        print(
            f"epoch {len(self.history)}: loss {self.history[-1]['loss']:.3f}{self._last()}",
            file=sys.stderr,
            flush=True,
        )

    def _last(self) -> str:
        if not self.history:
            return ""
        last = self.history[-1]
        return f"  error {last['mean_error']:.1%}, {last['failed']} of {len(last['errors'])} failed"


def main(args: Sequence[str]) -> None:
    path, options = parse_options(args)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data = load(path, options.tasks)
    run = Run(data, options)
    steps, longest = (
        int(number) for number in (data.train.lengths.sum(), data.train.lengths.max())
    )
    print(
        f"{options.core.name} on {len(data.train.answers):,} questions, {steps:,} "
        f"sentences in all, {longest} in the "
        f"longest story; {len(data.answers)} answers; in {run.directory}",
        file=sys.stderr,
    )
    try:
        run.train()
    except KeyboardInterrupt:
        raise InterruptedRun("the same command goes on from the last checkpoint") from None
    report(run.history[-1], Console())


def report(epoch: dict[str, Any], console: Console) -> None:
    """Print the errors by task."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("task")
    table.add_column("error", justify="right")
    for task, error in epoch["errors"].items():
        failed = error > FAILED
        table.add_row(
            f"{task:>2} {TASKS[int(task)]}", f"{error:.1%}", style="bold" if failed else None
        )
    table.add_section()
    table.add_row("mean", f"{epoch['mean_error']:.1%}")
    table.add_row(f"failed (over {FAILED:.0%})", str(epoch["failed"]))
    console.print(table)


def parse_options(args: Sequence[str]) -> tuple[Path, Options]:
    path, agent = names(args, USAGE, "a folder", "an agent")
    defaults = Options(core=find_agent(agent)())
    prog = f"python -m experiments.babi {path} {agent}"
    options = parse(Options, args[2:], prog, type(defaults.core).__doc__ or "", defaults)
    check_range(1, 2**53, epochs=options.epochs, checkpoint_interval=options.checkpoint_interval)
    check_range(1, 10_000, rows=options.rows, embedding_size=options.embedding_size)
    check_range(1, 256, threads=options.threads)
    check_range(0, MAX_SEED, seed=options.seed)
    if not options.tasks or unknown_tasks(options.tasks):
        raise UsageError(
            f"--tasks takes different numbers from 1 to {max(TASKS)}, got "
            f"{' '.join(map(str, options.tasks))}"
        )
    if not Path(path).is_dir():
        raise UsageError(f"there is no folder {path}")
    return Path(path), options


def unknown_tasks(tasks: Sequence[int]) -> bool:
    """Whether one of the numbers is no task's, or there twice."""
    return len(set(tasks)) < len(tasks) or not set(tasks) <= TASKS.keys()


if __name__ == "__main__":
    run_main(main)
