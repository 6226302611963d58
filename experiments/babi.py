"""Train any core on the stories of bAbI, all tasks together: python -m experiments.babi PATH AGENT
[options].

Weston et al. (2015) made the stories; each sentence is one step here, and so is each question. The
same command goes on with a run that was stopped, from its last epoch.
"""

import os
import signal

# the imports take seconds: until run_main takes over, Ctrl-C ends without a traceback
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # PyTorch's threads wait asleep: ten times as fast on a busy core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import heapq
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from mnm_rl.progress import ProgressLine

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

NAMES = {
    "people": (
        "antoine bernhard bill brian daniel emily fred gertrude greg jason jeff jessica john julie "
        "julius lily mary sandra sumit winona yann"
    ),
    "places": "bathroom bedroom cinema garden hallway kitchen office park school",
    "things": "apple football milk",
    "animals": "frog lion rhino swan",
    "colors": "blue gray green pink red white yellow",
    "shapes": "rectangle sphere square triangle",
}
"""Words that can stand for one another: no answer depends on what they mean."""
MEANINGFUL = {20: ("places", "things")}
"""Of a task, the names of which that does not hold: whoever is hungry goes to the kitchen."""

FAILED = 0.05
"""A task is failed with a larger share of wrong answers (Weston et al. 2015)."""
Questions = Literal["inline", "apart", "alone"]
"""How a story asks its questions, see :meth:`Stories.told_again`."""
Positions = Literal["masks", "signs", "ramps"]
"""What the weights of positions start as, see :class:`SentenceEncoder`."""


class Stories(NamedTuple):
    """N stories of S steps in all, one after the other."""

    sentences: NDArray[np.int64]
    """The number of the sentence or question of each step, and -1 at empty steps, ``[S]``."""
    answers: NDArray[np.int64]
    """The answer at the steps that ask for one, -1 at the others, ``[S]``."""
    lengths: NDArray[np.int64]
    """The number of steps of each story, ``[N]``."""
    tasks: NDArray[np.int64]
    """The task of each story, ``[N]``."""

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where each story ends, ``[N]``."""
        return self.lengths.cumsum()

    @property
    def n_questions(self) -> int:
        return int((self.answers >= 0).sum())

    def told_again(self, questions: Questions) -> "Stories":
        """The stories, each told as often as its questions need, to the last of a telling.

        Args:
            questions: "inline": the stories as they are; "apart": those that follow one another
                at once are in different tellings, the others stay where they stand; "alone": each
                has a telling of its own.
        """
        if questions == "inline":
            return self
        parts = []
        for task, first, end in zip(self.tasks, self.ends - self.lengths, self.ends, strict=True):
            asked = self.answers[first:end] >= 0
            (those,) = np.nonzero(asked)
            telling = np.arange(len(those))
            if questions == "apart":  # its place among those in a row
                in_a_row = np.diff(those, prepend=-1) == 1
                telling -= np.maximum.accumulate(np.where(in_a_row, 0, telling))
            for k in np.unique(telling):
                own = those[telling == k]
                kept = ~asked
                kept[own] = True
                steps = first + np.flatnonzero(kept[: own[-1] + 1])
                parts.append((self.sentences[steps], self.answers[steps], len(steps), task))
        sentences, answers, lengths, tasks = zip(*parts, strict=True)
        return Stories(
            np.concatenate(sentences), np.concatenate(answers), np.array(lengths), np.array(tasks)
        )

    def with_thinking_steps(
        self, questions: int, sentences: int = 0, repeat: bool = False
    ) -> "Stories":
        """With further steps after each question, and the answer at the last of them.

        Args:
            questions: how many steps follow a question.
            sentences: how many follow any other sentence.
            repeat: whether they show the sentence again, instead of nothing.
        """
        repeats = 1 + np.where(self.answers >= 0, questions, sentences)
        last = repeats.cumsum() - 1
        shown, answers = np.full((2, int(repeats.sum())), -1)
        shown[last - (repeats - 1)] = self.sentences
        answers[last] = self.answers
        if repeat:
            shown = np.repeat(self.sentences, repeats)
        before = np.concatenate([[0], repeats.cumsum()])
        lengths = before[self.ends] - before[self.ends - self.lengths]
        return Stories(shown, answers, lengths, self.tasks)


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
        steps, right, lengths, of_task = list[int](), list[int](), list[int](), list[int]()
        for task in tasks:
            files = sorted(path.glob(f"qa{task}_*{part}.txt"))
            if not files:
                raise UsageError(
                    f"there is no qa{task}_*{part}.txt in {path}: add one, or leave the task out "
                    "with --tasks"
                )
            for story in (story for file in files for story in read(file)):
                for sentence, answer in story:
                    steps.append(sentences.setdefault(sentence, len(sentences)))
                    right.append(-1 if answer is None else answers.setdefault(answer, len(answers)))
                lengths.append(len(story))
                of_task.append(task)
        return Stories(*(np.array(column) for column in (steps, right, lengths, of_task)))

    train, test = stories("train"), stories("test")
    return Data(train, test, list(sentences), list(answers))


def read(file: Path) -> Iterator[list[tuple[tuple[str, ...], str | None]]]:
    """The stories of a file: the words of each sentence, and the answer if it is a question.

    Raises:
        UsageError: if a line is not in the format, or a story asks nothing.
    """
    story: list[tuple[tuple[str, ...], str | None]] = []
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
        if number == "1" and story:
            yield story
            story = []
        story.append((words, supported[0].strip().lower() if supported else None))
    if story:
        yield story


class Words(NamedTuple):
    """Sentences by their words, word by number from 1."""

    numbers: NDArray[np.int64]
    """The words of each sentence, ``[S + 1, J]`` for sentences of at most J words, filled up with
    0. The last row, -1, is the empty sentence of an empty step."""
    vocabulary: list[str]
    """The word of each number from 1."""

    @classmethod
    def of(cls, sentences: Sequence[Sequence[str]]) -> "Words":
        vocabulary = sorted({word for sentence in sentences for word in sentence})
        number = {word: i for i, word in enumerate(vocabulary, start=1)}
        numbers = np.zeros((len(sentences) + 1, max(map(len, sentences))), dtype=np.int64)
        for row, sentence in zip(numbers, sentences, strict=False):
            row[: len(sentence)] = [number[word] for word in sentence]
        return cls(numbers, vocabulary)


def renamed(
    stories: Stories, words: Words, answers: Sequence[str], rng: np.random.Generator
) -> tuple[Stories, NDArray[np.int64]]:
    """The stories with the names of each (:data:`NAMES`) permuted among those of its task.

    Stories that then have an answer that is none of ``answers`` stay as they are.

    Returns:
        The stories, and the words of their sentences, as in :attr:`Words.numbers`.
    """
    story = np.repeat(np.arange(len(stories.tasks)), stories.lengths)
    unchanged = np.arange(len(words.vocabulary) + 1)
    permutation = np.tile(unchanged, (len(stories.tasks), 1))
    for task in np.unique(stories.tasks):
        (own,) = np.nonzero(stories.tasks == task)
        used = np.unique(words.numbers[stories.sentences[stories.tasks[story] == task]])
        for kind, known in NAMES.items():
            those = [n for n in used if n and words.vocabulary[n - 1] in known.split()]
            if those and kind not in MEANINGFUL.get(int(task), ()):
                permutation[np.ix_(own, those)] = rng.permuted(
                    np.tile(those, (len(own), 1)), axis=1
                )
    number = {word: n for n, word in enumerate(words.vocabulary, start=1)}
    spelled = [tuple(number.get(word, word) for word in answer.split(",")) for answer in answers]
    answer_of = {parts: n for n, parts in enumerate(spelled)}
    (asked,) = np.nonzero(stories.answers >= 0)
    changed = stories.answers.copy()
    for step in asked:
        own = permutation[story[step]]
        parts = (n if isinstance(n, str) else int(own[n]) for n in spelled[changed[step]])
        changed[step] = answer_of.get(tuple(parts), -1)
    unknown = np.unique(story[asked[changed[asked] < 0]])
    permutation[unknown] = unchanged
    changed[np.isin(story, unknown)] = stories.answers[np.isin(story, unknown)]
    numbers = permutation[story[:, None], words.numbers[stories.sentences]]
    sentences = np.where(stories.sentences < 0, -1, np.arange(len(story)))
    return (
        stories._replace(sentences=sentences, answers=changed),
        np.concatenate([numbers, words.numbers[-1:]]),
    )


class SentenceEncoder(nn.Module):
    """Sums of the words' embeddings, each times a vector of weights for its position.

    Args:
        words: the words of the sentences.
        width: of the embeddings, d.
        positions: what the weights start as. "masks": 1 or 0 at random, so that a word resembles
            itself at another position. "signs": 0.5 or -0.5 at random, so that it does not.
            "ramps": those of Sukhbaatar et al. (2015), section 4.1, in dimension k of d for word j
            of J: ``(1 - j/J) - (k/d) (1 - 2j/J)``.
        learned: whether the weights of positions are learned.
    """

    def __init__(
        self, words: Words, width: int, positions: Positions = "masks", learned: bool = True
    ) -> None:
        super().__init__()
        self.words = torch.from_numpy(words.numbers)
        self.embeddings = nn.Embedding(len(words.vocabulary) + 1, width, padding_idx=0)
        self.embeddings.weight.data *= SCALE
        longest = words.numbers.shape[1]
        if positions == "masks":
            weights = (torch.rand(longest, width) < 0.5).float()
        elif positions == "signs":
            weights = torch.randn(longest, width).sign() / 2
        else:
            j = torch.arange(1, longest + 1)[:, None] / longest
            k = torch.arange(1, width + 1) / width
            weights = 1 - j - k * (1 - 2 * j)
        self.positions = nn.Parameter(weights, requires_grad=learned)

    def forward(self, sentences: Tensor) -> Tensor:
        """Numbers of sentences ``[T, B]`` to vectors ``[T, B, d]``."""
        embedded: Tensor = self.embeddings(self.words[sentences])
        return (embedded * self.positions).sum(dim=-2)


SCALE = 0.7
"""Standard deviation of the first embeddings, with which a sentence of six words has numbers of
about unit scale."""


def stream(
    stories: Stories, order: NDArray[np.int64], rows: int, steps: int
) -> Iterator[NDArray[np.int64]]:
    """The stories one after the other in the rows of batches; a row runs on in the next batch.

    Args:
        stories: the stories.
        order: their numbers in the order in which they are taken, each by the row that is free
            first.
        rows: B, rows of a batch.
        steps: T, steps of a batch, about: the last batch is as long as the others.

    Yields:
        The number of each step in ``stories``, ``[T, B]``, and -1 after the last story of a row.
    """
    filled: list[list[NDArray[np.int64]]] = [[] for _ in range(rows)]
    free = [(0, row) for row in range(rows)]
    ends, lengths = stories.ends, stories.lengths
    for story in order.tolist():
        length, row = free[0]
        filled[row].append(np.arange(ends[story] - lengths[story], ends[story]))
        heapq.heapreplace(free, (length + int(lengths[story]), row))
    T = max(length for length, _ in free)
    numbers = np.full((T, rows), -1)
    for row, parts in enumerate(filled):
        if parts:
            numbers[: sum(map(len, parts)), row] = np.concatenate(parts)
    yield from np.array_split(numbers, max(1, round(T / steps)))


def batch(stories: Stories, numbers: NDArray[np.int64], state: Any = None) -> Batch:
    """What a model is trained and tested with, from what :func:`stream` yields."""
    counts = numbers >= 0
    begins = np.zeros(len(stories.sentences), dtype=bool)
    begins[stories.ends - stories.lengths] = True
    starts = counts & begins[numbers]
    sentences, answers = (
        torch.from_numpy(np.where(counts, column[numbers], -1))
        for column in (stories.sentences, stories.answers)
    )
    return Batch(sentences, answers, torch.from_numpy(starts), torch.from_numpy(counts), state)


def errors(model: SequenceModel, stories: Stories, rows: int, steps: int) -> dict[str, float]:
    """The share of wrong answers by task."""
    right = np.zeros(len(stories.answers), dtype=bool)
    state, order = None, np.argsort(-stories.lengths, kind="stable")
    for numbers in stream(stories, order, rows, steps):
        given, state = model.right(now := batch(stories, numbers, state))
        right[numbers[now.targets.numpy() >= 0]] = given.numpy()
    tasks, asked = np.repeat(stories.tasks, stories.lengths), stories.answers >= 0
    return {
        str(task): float((~right)[asked & (tasks == task)].mean())
        for task in np.unique(stories.tasks)
    }


@dataclass(frozen=True, kw_only=True)
class Options:
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    """Of the training."""
    core: tyro.conf.OmitArgPrefixes[Agent]
    """Of the agent's core."""
    tasks: tuple[int, ...] = tuple(TASKS)
    """Tasks to train and test on, together."""
    questions: Questions = "inline"
    """Whether a story asks all its questions where they stand, is told again for those that follow
    one another at once, or for each."""
    thinking_steps: int = 0
    """Further steps for each question; the answer is given at the last."""
    sentence_steps: int = 0
    """Further steps for each sentence, in which it can write what it has read."""
    repeat: bool = False
    """Show the sentence or question again in its further steps, instead of nothing."""
    epochs: int = 100
    """How often every question is seen; over them the step size falls to 0 in a straight line."""
    warm_up: int = 50
    """Updates over which the step size first rises to its full size."""
    rows: int = 32
    """Sequences of an update, in which one story follows the other."""
    steps: int = 64
    """Steps of an update; stories run on in the next, without a gradient from one to the other."""
    embedding_size: int = 100
    """Width of the embeddings of words."""
    positions: Positions = "masks"
    """What the weights of a word's position in its sentence start as: random masks or signs, which
    tell all positions apart, or linear ramps, which tell apart two."""
    learned_positions: bool = True
    """Whether the weights of a word's position in its sentence are learned."""
    dropout: float = 0.0
    """Share of the features of sentences that is left out in training."""
    rename: bool = False
    """Permute the names of people, places and things in each story anew in every epoch."""
    weight_decay: float = 0.0
    """Share of the weights that is subtracted per update and unit of step size (AdamW)."""
    seed: int = 0
    """Seed of the weights and of the order of the stories."""
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
        self.options = options
        agent = options.core
        self.train_stories, self.test_stories = (
            stories.told_again(options.questions).with_thinking_steps(
                options.thinking_steps, options.sentence_steps, options.repeat
            )
            for stories in (data.train, data.test)
        )
        hyperparameters = asdict(options.training) | agent.arguments()
        self.settings = {"agent": agent.name, "hyperparameters": hyperparameters} | {
            own.name: getattr(options, own.name)
            for own in fields(options)
            if own.name not in ("training", "core", "out", "threads")
        }
        self.settings |= {
            "tasks": list(options.tasks),
            "n_questions": [data.train.n_questions, data.test.n_questions],
        }
        self.directory = options.out or Path("runs") / "babi" / agent.name / f"seed{options.seed}"
        self.directory.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(options.seed)
        self.answers = data.answers
        self.words = Words.of(data.sentences)
        self.encoder = SentenceEncoder(
            self.words, options.embedding_size, options.positions, options.learned_positions
        )
        self.model = SequenceModel(
            nn.Sequential(self.encoder, nn.Dropout(options.dropout)),
            build_core(agent, options.embedding_size),
            len(data.answers),
        )
        self.trainer = Trainer(self.model, options.training, options.weight_decay)
        self.history: list[dict[str, Any]] = []  # of the epochs so far
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
        changed = [
            name for name, value in self.settings.items() if saved["settings"].get(name) != value
        ]
        if changed:
            raise UsageError(
                f"{self.directory} holds a run with other settings ({', '.join(changed)}); give "
                "--out another name"
            )
        self.model.load_state_dict(saved["model"])
        self.trainer.optimizer.load_state_dict(saved["optimizer"])
        self.trainer.updates, self.trainer.seconds = saved["updates"], saved["seconds"]
        self.history = saved["history"]
        torch.set_rng_state(saved["rng_state"])  # of the dropout

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        state = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "updates": self.trainer.updates,
            "seconds": self.trainer.seconds,
            "history": self.history,
            "rng_state": torch.get_rng_state(),
        }
        with replacing(self.directory / "checkpoint.pt") as file:
            torch.save(state, file)

    def train(self) -> None:
        """Train for the epochs that are left."""
        stories, options = self.train_stories, self.options
        as_they_are = self.encoder.words
        n = stories.n_questions
        done = len(self.history) * n
        with closing(ProgressLine(options.epochs * n, "questions", done)) as progress:
            while (epoch := len(self.history)) < options.epochs:
                rng = np.random.default_rng([options.seed, epoch])
                order = rng.permutation(len(stories.tasks))
                if options.rename:
                    stories, words = renamed(self.train_stories, self.words, self.answers, rng)
                    self.encoder.words = torch.from_numpy(words)
                answered, losses = 0, list[float]()
                self.trainer.state = None
                self.model.train()
                for numbers in stream(stories, order, options.rows, options.steps):
                    self._set_step_size((epoch + answered / n) / options.epochs)
                    now = batch(stories, numbers, self.trainer.state)
                    losses.append(self.trainer.update(now))
                    answered += int((now.targets >= 0).sum())
                    progress.show(
                        epoch * n + answered, f"loss {np.mean(losses[-100:]):.3f}{self._last()}"
                    )
                self.encoder.words = as_they_are
                self._end_of_epoch(float(np.mean(losses)))
                self.save()

    def _set_step_size(self, done: float) -> None:
        rising = min(1, (self.trainer.updates + 1) / max(1, self.options.warm_up))
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = self.options.training.learning_rate * rising * (1 - done)

    def _end_of_epoch(self, loss: float) -> None:
        self.model.eval()
        by_task = errors(self.model, self.test_stories, self.options.rows, self.options.steps)
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "updates": self.trainer.updates,
                "seconds": round(self.trainer.seconds, 1),
                "loss": round(loss, 5),
                "mean_error": float(np.mean(list(by_task.values()))),
                "failed": sum(error > FAILED for error in by_task.values()),
                "errors": {task: round(error, 6) for task, error in by_task.items()},
            }
        )
        machine = {"threads": torch.get_num_threads(), "versions": versions()}
        parameters = {"parameters": sum(p.numel() for p in self.model.parameters())}
        write_json(
            self.directory / "result.json",
            self.settings | parameters | machine | {"epochs_done": self.history},
        )
        print(
            f"epoch {len(self.history)}: loss {loss:.3f}{self._last()}",
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
    lengths = run.train_stories.lengths
    print(
        f"{options.core.name} on {data.train.n_questions:,} questions in "
        f"{len(lengths):,} stories of {lengths.sum():,} steps in all, {lengths.max()} in the "
        f"longest; {len(data.answers)} answers; in {run.directory}",
        file=sys.stderr,
    )
    try:
        run.train()
    except KeyboardInterrupt:
        raise InterruptedRun("the same command goes on from the last epoch") from None
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
    check_range(1, 2**53, epochs=options.epochs)
    check_range(0, 2**53, warm_up=options.warm_up)
    check_range(1, 10_000, rows=options.rows, embedding_size=options.embedding_size)
    check_range(1, 2**20, steps=options.steps)
    check_range(0, 1_000, thinking_steps=options.thinking_steps)
    check_range(0, 1_000, sentence_steps=options.sentence_steps)
    if options.repeat and not options.thinking_steps + options.sentence_steps:
        raise UsageError("--repeat needs further steps: --thinking-steps or --sentence-steps")
    if not (0 <= options.dropout < 1 and 0 <= options.weight_decay < math.inf):
        raise UsageError("--dropout must be from 0 to below 1, and --weight-decay at least 0")
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
