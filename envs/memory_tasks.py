"""Tasks that require memory: observations, questions and right answers, as a batch of episodes.

A task draws whole episodes. :class:`envs.MemoryVectorEnv` plays them, and a sequence model can
learn from them directly.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int64]


class Episodes(NamedTuple):
    """A batch of episodes of a task, time first."""

    observations: NDArray[np.float32]
    """Observations, ``[T, B, F]``; zeros after the last step of an episode shorter than T."""
    targets: NDArray[np.int64]
    """Right answers, ``[T, B]``; -1 at steps without a question.

    The last step of an episode always has a question.
    """


class MemoryTask(ABC):
    """A task and its difficulty, as a frozen dataclass of settings.

    Raises:
        ValueError: if a setting is wrong.
    """

    @property
    @abstractmethod
    def parts(self) -> dict[str, int]:
        """Return the parts of an observation and their widths, in order.

        Symbols are one-hot. Flags and numbers have width 1. A part of another kind needs a
        :meth:`describe` of its own.
        """

    @property
    @abstractmethod
    def n_answers(self) -> int:
        """Number of possible answers, 0 to ``n_answers`` - 1.

        Without memory, all answers are equally likely to be right.
        """

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of steps T in an episode; the maximum if the length varies."""

    @abstractmethod
    def episodes(self, rng: np.random.Generator, n: int) -> Episodes:
        """Draw ``n`` independent episodes.

        Returns:
            observations ``[T, n, F]`` and right answers ``[T, n]``.
        """

    @property
    def observation_size(self) -> int:
        """Width F of an observation."""
        return sum(self.parts.values())

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the smallest and the largest observation, ``[F]`` each."""
        return np.zeros(self.observation_size, np.float32), np.ones(
            self.observation_size, np.float32
        )

    def part(self, name: str) -> slice:
        """Return the slice of an observation that holds a part."""
        start = 0
        for other, width in self.parts.items():
            if other == name:
                return slice(start, start + width)
            start += width
        raise KeyError(name)

    def describe(self, observation: NDArray[np.float32]) -> str:
        """Describe an observation ``[F]`` in words: its symbols, and the flags that are set."""
        words = []
        for name, width in self.parts.items():
            shown = observation[self.part(name)]
            if shown.any():
                plain = width == 1 and shown[0] == 1
                words.append(
                    name
                    if plain
                    else f"{name} {shown[0]:.2f}"
                    if width == 1
                    else f"{name} {shown.argmax()}"
                )
        return "  ".join(words)

    def _blank(self, n: int, length: int | None = None) -> Episodes:
        """Return episodes without symbols and questions, with the length of the task or another."""
        shape = length or self.length, n
        return Episodes(np.zeros((*shape, self.observation_size), np.float32), np.full(shape, -1))

    def _show(self, observations: NDArray[np.float32], **shown: Symbols | float) -> None:
        """Write parts into observations ``[..., F]``.

        Symbols ``[...]`` become one-hot vectors, and a flag is a number.
        """
        for name, value in shown.items():
            where = observations[..., self.part(name)]
            if isinstance(value, np.ndarray):
                np.put_along_axis(where, value[..., None], 1, axis=-1)
            else:
                where[...] = value


@dataclass(frozen=True, kw_only=True)
class Recall(MemoryTask):
    """Key-value pairs appear, then each key appears again, and its value is the answer.

    There is one pair per step. The keys are in another order the second time.

    Args:
        pairs: number of pairs.
        keys: number of different keys, at least as many as pairs; None is twice as many. No key
            appears in two pairs.
        values: number of different values.
    """

    pairs: int = 8
    keys: int | None = None
    values: int = 4

    def __post_init__(self) -> None:
        check_settings(
            "Recall", pairs=(self.pairs, 1), keys=(self._keys, 1), values=(self.values, 2)
        )
        if self._keys < self.pairs:
            raise ValueError(
                f"the keys of mnm/Recall must be at least its pairs, {self.pairs}, got {self.keys}"
            )

    @property
    def _keys(self) -> int:
        return 2 * self.pairs if self.keys is None else self.keys

    @property
    def parts(self) -> dict[str, int]:
        return {"key": self._keys, "value": self.values, "answer": 1}

    @property
    def n_answers(self) -> int:
        return self.values

    @property
    def length(self) -> int:
        return 2 * self.pairs

    def episodes(self, rng: np.random.Generator, n: int) -> Episodes:
        keys = _permutations(rng, self._keys, n)[: self.pairs]
        values = rng.integers(self.values, size=(self.pairs, n))
        order = _permutations(rng, self.pairs, n)
        observations, targets = self._blank(n)
        self._show(observations[: self.pairs], key=keys, value=values)
        self._show(
            observations[self.pairs :], key=np.take_along_axis(keys, order, axis=0), answer=1
        )
        targets[self.pairs :] = np.take_along_axis(values, order, axis=0)
        return Episodes(observations, targets)


@dataclass(frozen=True, kw_only=True)
class Dictionary(MemoryTask):
    """Dictionary inference, after Munkhdalai et al. (2019).

    The agent has to translate a string with a dictionary that the episode has shown.

    The dictionary maps letters to letters, no two to the same one, and is new in every episode.
    Pairs of strings show the dictionary, first a source string and then its translation, one letter
    per step. Then another source string appears, and the agent has to answer with its translation,
    again one letter per step.

    If the strings have enough room, they contain all letters, as equally often as possible.
    Otherwise all letters in them differ, and the strings to translate use only these letters.
    Every question therefore has an answer.

    Args:
        letters: size of the alphabet.
        support: number of pairs of strings that show the dictionary.
        string_length: letters in a string.
        queries: number of strings to translate, one after the other.
        min_string_length: if less than `string_length`, the number of letters is uniform between
            the two, drawn for each episode; None is `string_length`.
    """

    letters: int = 8
    support: int = 4
    string_length: int = 4
    queries: int = 1
    min_string_length: int | None = None

    def __post_init__(self) -> None:
        check_settings(
            "Dictionary",
            letters=(self.letters, 2),
            support=(self.support, 1),
            string_length=(self.string_length, 1),
        )
        check_settings("Dictionary", queries=(self.queries, 1))
        _check_shortest(
            "Dictionary",
            "min_string_length",
            self._min_string_length,
            "string_length",
            self.string_length,
        )

    @property
    def _min_string_length(self) -> int:
        return self.string_length if self.min_string_length is None else self.min_string_length

    @property
    def parts(self) -> dict[str, int]:
        return {"letter": self.letters, "source": 1, "translation": 1, "answer": 1}

    @property
    def n_answers(self) -> int:
        return self.letters

    @property
    def length(self) -> int:
        return 2 * (self.support + self.queries) * self.string_length

    def episodes(self, rng: np.random.Generator, n: int) -> Episodes:
        if self._min_string_length == self.string_length:
            return self._of_length(self.string_length, rng, n)
        lengths = rng.integers(self._min_string_length, self.string_length + 1, size=n)
        episodes = self._blank(n)
        for length in range(self._min_string_length, self.string_length + 1):
            where = np.flatnonzero(lengths == length)
            observations, targets = self._of_length(length, rng, len(where))
            episodes.observations[: len(observations), where] = observations
            episodes.targets[: len(targets), where] = targets
        return episodes

    def _of_length(self, string_length: int, rng: np.random.Generator, n: int) -> Episodes:
        """Draw episodes with strings of ``string_length`` letters."""
        room = self.support * string_length
        dictionary = _permutations(rng, self.letters, n)
        # the first of them are shown, and all of them if there is room
        drawn = _permutations(rng, self.letters, n)
        shown = rng.permuted(drawn[np.arange(room) % self.letters], axis=0)
        asked = np.take_along_axis(
            drawn,
            rng.integers(min(room, self.letters), size=(self.queries * string_length, n)),
            axis=0,
        )
        sources = np.concatenate([shown, asked])
        translations = np.take_along_axis(dictionary, sources, axis=0)

        strings = self.support + self.queries
        observations, targets = self._blank(n, 2 * strings * string_length)
        pairs = observations.reshape(strings, 2, string_length, n, self.observation_size)
        answers = targets.reshape(strings, 2, string_length, n)[self.support :, 1]
        sources, translations = (
            letters.reshape(strings, string_length, n) for letters in (sources, translations)
        )
        self._show(pairs[:, 0], letter=sources, source=1)
        self._show(pairs[: self.support, 1], letter=translations[: self.support], translation=1)
        self._show(pairs[self.support :, 1], answer=1)
        answers[...] = translations[self.support :]
        return Episodes(observations, targets)


@dataclass(frozen=True, kw_only=True)
class Copy(MemoryTask):
    """Copy a sequence, after Graves et al. (2014), section 4.1.

    Symbols appear, one per step. Then the agent has to answer with them in the same order.

    Args:
        items: number of symbols.
        min_items: if less than `items`, the number of symbols is uniform between the two, drawn for
            each episode; None is `items`.
        symbols: number of different symbols.
    """

    items: int = 10
    min_items: int | None = None
    symbols: int = 8

    def __post_init__(self) -> None:
        check_settings("Copy", items=(self.items, 1), symbols=(self.symbols, 2))
        _check_shortest("Copy", "min_items", self._min_items, "items", self.items)

    @property
    def _min_items(self) -> int:
        return self.items if self.min_items is None else self.min_items

    @property
    def parts(self) -> dict[str, int]:
        return {"symbol": self.symbols, "answer": 1}

    @property
    def n_answers(self) -> int:
        return self.symbols

    @property
    def length(self) -> int:
        return 2 * self.items

    def episodes(self, rng: np.random.Generator, n: int) -> Episodes:
        symbols = rng.integers(self.symbols, size=(self.items, n))
        observations, targets = self._blank(n)
        if self._min_items == self.items:
            self._show(observations[: self.items], symbol=symbols)
            self._show(observations[self.items :], answer=1)
            targets[self.items :] = symbols
            return Episodes(observations, targets)
        items = rng.integers(self._min_items, self.items + 1, size=n)
        item, episode = np.nonzero(np.arange(self.items)[:, None] < items)
        observations[item, episode, symbols[item, episode]] = 1
        asking = items[episode] + item
        observations[asking, episode, self.part("answer")] = 1
        targets[asking, episode] = symbols[item, episode]
        return Episodes(observations, targets)


@dataclass(frozen=True, kw_only=True)
class RepeatPrevious(MemoryTask):
    """Answer with the symbol from `lag` steps ago: copying as a stream.

    A symbol appears at every step. The questions start at step `lag`. The task is from POPGym
    (Morad et al., 2023), where the symbols are the suits of cards.

    Args:
        lag: number of steps to look back, at least 1.
        steps: length of an episode, greater than the lag.
        symbols: number of different symbols.
        clock: number of hands of a clock that each observation shows, as the sine and the cosine
            of an angle each. The first hand goes round in 4 steps, every other in twice as many as
            the one before. A memory can use the clock as a key for every step.
    """

    lag: int = 4
    steps: int = 52
    symbols: int = 4
    clock: int = 0

    def __post_init__(self) -> None:
        check_settings(
            "RepeatPrevious", lag=(self.lag, 1), steps=(self.steps, 2), symbols=(self.symbols, 2)
        )
        check_settings("RepeatPrevious", clock=(self.clock, 0))
        if self.steps <= self.lag:
            raise ValueError(
                f"the steps of mnm/RepeatPrevious must be more than its lag, {self.lag}, got "
                f"{self.steps}"
            )

    @property
    def parts(self) -> dict[str, int]:
        return {"symbol": self.symbols, "answer": 1, "clock": 2 * self.clock}

    @property
    def n_answers(self) -> int:
        return self.symbols

    @property
    def length(self) -> int:
        return self.steps

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        low, high = super().bounds
        low[self.part("clock")] = -1
        return low, high

    def episodes(self, rng: np.random.Generator, n: int) -> Episodes:
        symbols = rng.integers(self.symbols, size=(self.steps, n))
        observations, targets = self._blank(n)
        self._show(observations, symbol=symbols)
        self._show(observations[self.lag :], answer=1)
        targets[self.lag :] = symbols[: -self.lag]
        turns = np.arange(self.steps)[:, None] / 4 / 2.0 ** np.arange(self.clock)
        hands = np.concatenate([np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)], axis=1)
        observations[:, :, self.part("clock")] = hands[:, None]
        return Episodes(observations, targets)

    def describe(self, observation: NDArray[np.float32]) -> str:
        without_clock = observation.copy()
        without_clock[self.part("clock")] = 0
        return super().describe(without_clock)


@dataclass(frozen=True, kw_only=True)
class Sort(MemoryTask):
    """Priority sort, after Graves et al. (2014), section 4.5.

    Symbols appear, each with a priority. Then the agent has to answer with them, sorted by
    priority. Priorities are uniform in [-1, 1), and the symbol with the highest one comes first. In
    the paper, the items are binary vectors, and the answers are 16 of 20 items.

    Args:
        items: number of symbols.
        answers: number of answers, those with the highest priorities; None is all.
        symbols: number of different symbols.
    """

    items: int = 8
    answers: int | None = None
    symbols: int = 8

    def __post_init__(self) -> None:
        check_settings(
            "Sort", items=(self.items, 1), answers=(self._answers, 1), symbols=(self.symbols, 2)
        )
        if self._answers > self.items:
            raise ValueError(
                f"the answers of mnm/Sort must be at most its items, {self.items}, got "
                f"{self.answers}"
            )

    @property
    def _answers(self) -> int:
        return self.items if self.answers is None else self.answers

    @property
    def parts(self) -> dict[str, int]:
        return {"symbol": self.symbols, "priority": 1, "answer": 1}

    @property
    def n_answers(self) -> int:
        return self.symbols

    @property
    def length(self) -> int:
        return self.items + self._answers

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        low, high = super().bounds
        low[self.part("priority")] = -1
        return low, high

    def episodes(self, rng: np.random.Generator, n: int) -> Episodes:
        symbols = rng.integers(self.symbols, size=(self.items, n))
        priorities = 2 * rng.random((self.items, n), np.float32) - 1
        order = np.argsort(-priorities, axis=0, kind="stable")[: self._answers]
        observations, targets = self._blank(n)
        self._show(observations[: self.items], symbol=symbols)
        observations[: self.items, :, self.part("priority")] = priorities[..., None]
        self._show(observations[self.items :], answer=1)
        targets[self.items :] = np.take_along_axis(symbols, order, axis=0)
        return Episodes(observations, targets)


TASKS: dict[str, Callable[..., MemoryTask]] = {
    "recall": Recall,
    "dictionary": Dictionary,
    "copy": Copy,
    "repeat_previous": RepeatPrevious,
    "sort": Sort,
}
"""The tasks by name; each takes its settings as keyword arguments."""


def check_settings(task: str, **settings: tuple[object, int]) -> None:
    """Check that settings are whole numbers and not too small.

    Each setting comes with its minimum.
    """
    for name, (value, least) in settings.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(
                f"the {name} of mnm/{task} must be a whole number, at least {least}, got {value!r}"
            )


def _check_shortest(task: str, name: str, shortest: int, of: str, longest: int) -> None:
    """Check the lower end of a range of lengths."""
    check_settings(task, **{name: (shortest, 1)})
    if shortest > longest:
        raise ValueError(
            f"the {name} of mnm/{task} must be at most its {of}, {longest}, got {shortest}"
        )


def _permutations(rng: np.random.Generator, size: int, n: int) -> Symbols:
    """Draw ``n`` random permutations of 0 to ``size`` - 1, ``[size, n]``."""
    return rng.permuted(np.broadcast_to(np.arange(size)[:, None], (size, n)), axis=0)
