"""Tasks that cannot be solved without remembering: what is shown, what is asked and what the
answers are, many episodes at a time.

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
    """Some episodes of a task, time first."""

    observations: NDArray[np.float32]
    """What is seen, ``[T, B, F]``; zeros after the last step of an episode that is shorter than
    T."""
    targets: NDArray[np.int64]
    """The right answers at the steps that ask, -1 at those that do not, ``[T, B]``. The last step
    of an episode asks."""


class MemoryTask(ABC):
    """A task and how hard it is: a frozen dataclass of its settings.

    Raises:
        ValueError: if a setting is wrong.
    """

    @property
    @abstractmethod
    def parts(self) -> dict[str, int]:
        """The parts of an observation and their widths, in order: symbols are one-hot, flags and
        numbers have width 1."""

    @property
    @abstractmethod
    def n_answers(self) -> int:
        """Answers are 0 to ``n_answers`` - 1, all equally likely to be right for who remembers
        nothing."""

    @property
    @abstractmethod
    def length(self) -> int:
        """T, the steps of an episode; of the longest one if they vary."""

    @abstractmethod
    def episodes(self, rng: np.random.Generator, n: int) -> Episodes:
        """Draw ``n`` independent episodes: observations ``[T, n, F]`` and right answers ``[T,
        n]``."""

    @property
    def observation_size(self) -> int:
        """F, the width of an observation."""
        return sum(self.parts.values())

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Smallest and largest observations, ``[F]`` each."""
        return np.zeros(self.observation_size, np.float32), np.ones(
            self.observation_size, np.float32
        )

    def part(self, name: str) -> slice:
        """Where in an observation a part is."""
        start = 0
        for other, width in self.parts.items():
            if other == name:
                return slice(start, start + width)
            start += width
        raise KeyError(name)

    def describe(self, observation: NDArray[np.float32]) -> str:
        """An observation ``[F]`` in words: which symbols it shows, which flags are up."""
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
        """Episodes in which nothing is shown or asked, of the task's length or another."""
        shape = length or self.length, n
        return Episodes(np.zeros((*shape, self.observation_size), np.float32), np.full(shape, -1))

    def _show(self, observations: NDArray[np.float32], **shown: Symbols | float) -> None:
        """Write into observations ``[..., F]``, by part: symbols ``[...]`` as one-hot vectors, a
        flag as a number."""
        for name, value in shown.items():
            where = observations[..., self.part(name)]
            if isinstance(value, np.ndarray):
                np.put_along_axis(where, value[..., None], 1, axis=-1)
            else:
                where[...] = value


@dataclass(frozen=True, kw_only=True)
class Recall(MemoryTask):
    """Key-value pairs are shown, one a step; then each key is shown again, in another order, and
    its value is asked for.

    Args:
        pairs: how many.
        keys: how many different keys there are, at least as many as pairs; None is twice as many.
            No key is shown twice.
        values: how many different values there are.
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
    """Dictionary inference, after Munkhdalai et al. (2019): translate a string with a dictionary
    that this episode has shown.

    The dictionary takes each letter to a letter, no two to the same one, and is drawn anew in every
    episode. It is shown by pairs of strings, each a source string and then its translation, one
    letter a step. Then another source string is shown, and its translation is asked for, again one
    letter a step.

    All letters are shown, as equally often as possible, if the strings have room for them. If not,
    all letters that are shown differ, and what there is to translate is made of these alone: every
    question can be answered.

    Args:
        letters: size of the alphabet.
        support: how many pairs of strings show the dictionary.
        string_length: letters in a string.
        queries: how many strings are to be translated, one after the other.
        min_string_length: if less, how many varies evenly between the two from episode to episode;
            None is `string_length`.
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
        """Episodes whose strings have so many letters."""
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
    """Copy a sequence, after Graves et al. (2014), section 4.1: symbols are shown, one a step, then
    asked for in the same order.

    Args:
        items: how many symbols are shown.
        min_items: if less than `items`, how many varies evenly between the two from episode to
            episode; None is `items`.
        symbols: how many different ones there are.
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
    """A symbol is shown at every step, and from step `lag` on the one shown `lag` steps ago is
    asked for: copying as a stream.

    The task of POPGym (Morad et al., 2023), where the symbols are the suits of cards.

    Args:
        lag: how long ago, at least 1.
        steps: length of an episode, more than the lag.
        symbols: how many different ones there are.
    """

    lag: int = 4
    steps: int = 52
    symbols: int = 4

    def __post_init__(self) -> None:
        check_settings(
            "RepeatPrevious", lag=(self.lag, 1), steps=(self.steps, 2), symbols=(self.symbols, 2)
        )
        if self.steps <= self.lag:
            raise ValueError(
                f"the steps of mnm/RepeatPrevious must be more than its lag, {self.lag}, got "
                f"{self.steps}"
            )

    @property
    def parts(self) -> dict[str, int]:
        return {"symbol": self.symbols, "answer": 1}

    @property
    def n_answers(self) -> int:
        return self.symbols

    @property
    def length(self) -> int:
        return self.steps

    def episodes(self, rng: np.random.Generator, n: int) -> Episodes:
        symbols = rng.integers(self.symbols, size=(self.steps, n))
        observations, targets = self._blank(n)
        self._show(observations, symbol=symbols)
        self._show(observations[self.lag :], answer=1)
        targets[self.lag :] = symbols[: -self.lag]
        return Episodes(observations, targets)


@dataclass(frozen=True, kw_only=True)
class Sort(MemoryTask):
    """Priority sort, after Graves et al. (2014), section 4.5: symbols are shown, each with a
    priority, then asked for by priority.

    Priorities are even in [-1, 1), and the symbol of the highest one is asked for first. In the
    paper the items are binary vectors, and 16 of 20 are asked for.

    Args:
        items: how many symbols are shown.
        answers: how many are asked for, those of the highest priorities; None is all.
        symbols: how many different ones there are.
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
    """Check that settings, given with the least that each can be, are whole numbers and large
    enough."""
    for name, (value, least) in settings.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(
                f"the {name} of mnm/{task} must be a whole number, at least {least}, got {value!r}"
            )


def _check_shortest(task: str, name: str, shortest: int, of: str, longest: int) -> None:
    """Check the smaller end of a range of lengths."""
    check_settings(task, **{name: (shortest, 1)})
    if shortest > longest:
        raise ValueError(
            f"the {name} of mnm/{task} must be at most its {of}, {longest}, got {shortest}"
        )


def _permutations(rng: np.random.Generator, size: int, n: int) -> Symbols:
    """``n`` random orders of 0 to ``size`` - 1, ``[size, n]``."""
    return rng.permuted(np.broadcast_to(np.arange(size)[:, None], (size, n)), axis=0)
