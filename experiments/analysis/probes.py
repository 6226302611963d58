"""A look into the memory: an episode played again in plain PyTorch, with all that is written and
read."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from experiments.analysis.figures import save_figure
from experiments.command_line import UsageError
from experiments.configuration import Run
from experiments.episode import Episode, check_playable, play
from experiments.run import load_model, newest_model
from mnm_rl.cores import MnmCore, PlasticCore, RecurrentCore
from mnm_rl.memory import PlainMemory

Array = NDArray[np.float32]
SIMILAR = "PuOr"
"""Color map for numbers with a sign: orange below zero, purple above; told apart with every kind of
color blindness."""
GOOD, BAD = "#009e73", "#d55e00"
LINES = ("#000000", "#0072b2", "#cc79a7", "#e69f00", "#56b4e9")
"""Colors of Okabe and Ito (2008), for the same reason."""


def check_memory_to_probe(directory: Path, run: Run) -> None:
    """Check that there is something to probe, before any episode is played.

    Raises:
        UsageError: if the agent has no fast weights, or there is no such environment.
        RunError: if its model is damaged.
    """
    core = load_model(run, newest_model(directory), None, "cpu").policy.actor_core
    if not isinstance(core, MnmCore | PlasticCore):
        raise _no_fast_weights(run, core)
    check_playable(run)


def _no_fast_weights(run: Run, core: RecurrentCore[Any]) -> UsageError:
    return UsageError(
        f"there are no fast weights to look into: {run.agent} has a {type(core).__name__}, not "
        "MNM or plastic"
    )


def probe_memory(directory: Path, run: Run, path: Path, seed: int, deterministic: bool) -> None:
    """Draw what a memory does in one episode (at most 1,000 steps), and write it as data to an
    ``.npz`` file beside the picture.

    Raises:
        UsageError: if the agent has no fast weights, or there is no such environment.
    """
    episode = play(directory, run, seed, deterministic)
    look = look_into_memory(episode)
    marks = {name.replace(" ", "_"): np.array(steps, int) for name, steps in episode.marks.items()}
    np.savez_compressed(
        path.with_suffix(".npz"), allow_pickle=False, rewards=episode.rewards, **marks, **look
    )
    save_figure(memory_figure(episode, look), path)


def look_into_memory(episode: Episode) -> dict[str, Array]:
    """Play the inputs of an episode again, by the equations as they stand, and keep what the memory
    does.

    Returns:
        arrays by name. Of an MNM core with H heads and L memory layers of width M: ``write_keys``,
        ``write_values``, ``read_keys`` ``[T, H, M]``; ``read_values`` ``[T, M]``, before their
        gate; ``read_gate``, the share of their norm that passes it, ``write_strength``,
        ``meta_loss`` ``[T]``; ``layer_change`` ``[T, L]``, the Frobenius norm of what each write
        changed; and of what is read with what was written ``key_similarity`` ``[T, H, T, H]`` and
        ``value_similarity`` ``[T, 1, T, H]``. Of a plastic core: ``trace`` ``[T, D, D]``, after
        each step; ``trace_change`` and ``trace_size`` ``[T]``, Frobenius norms;
        ``trace_similarity`` ``[T, 1, T, 1]``. For the similarities see :func:`similarity`.

    Raises:
        UsageError: if the agent has no fast weights.
    """
    core = episode.core
    with torch.no_grad():
        if isinstance(core, MnmCore):
            return _look_into_mnm(core, episode.inputs)
        if isinstance(core, PlasticCore):
            return _look_into_plastic(core, episode.inputs)
    raise _no_fast_weights(episode.run, core)


def _look_into_mnm(core: MnmCore, inputs: Tensor) -> dict[str, Array]:
    written: list[tuple[Tensor, ...]] = []

    class Watched(PlainMemory):
        def write_and_read(
            self,
            keys: Tensor,
            values: Tensor,
            beta: Tensor,
            read_keys: Tensor,
            alpha: Tensor | None = None,
        ) -> Tensor:
            own = slice(core.heads)  # the others check what was written
            recalled = super().write_and_read(keys, values, beta, read_keys, alpha)
            written.append(
                (keys[0], values[0], read_keys[0, own], recalled[0, own].mean(dim=0), beta[0])
            )
            return recalled

    state, read = core.initial_state(1), []
    for x in inputs:
        theta = state.theta
        _, state, meta_loss = core.scan(
            x.unsqueeze(0), state, torch.zeros(1, 1, dtype=torch.bool), Watched
        )
        read.append(
            (state.read[0].norm(), (state.theta - theta)[0].flatten(1).norm(dim=1), meta_loss[0, 0])
        )
    write_keys, write_values, read_keys, read_values, write_strength = _stacked(written)
    passed, layer_change, meta_loss_ = _stacked(read)
    return dict(
        write_keys=write_keys,
        write_values=write_values,
        read_keys=read_keys,
        read_values=read_values,
        read_gate=passed
        / np.maximum(np.linalg.norm(read_values, axis=1), np.finfo(passed.dtype).tiny),
        write_strength=write_strength,
        layer_change=layer_change,
        meta_loss=meta_loss_,
        key_similarity=similarity(read_keys, write_keys),
        value_similarity=similarity(read_values[:, None], write_values),
    )


def _look_into_plastic(core: PlasticCore, inputs: Tensor) -> dict[str, Array]:
    state, traces = core.initial_state(1), []
    for x in inputs:
        before = state.hebb
        _, state, _ = core.step(x, state)
        traces.append((state.hebb[0], (state.hebb - before).norm(), state.hebb.norm()))
    trace, change, size = _stacked(traces)
    flat = trace.reshape(len(trace), 1, -1)
    return dict(
        trace=trace, trace_change=change, trace_size=size, trace_similarity=similarity(flat, flat)
    )


def _stacked(steps: Sequence[tuple[Tensor, ...]]) -> list[Array]:
    return [torch.stack(parts).numpy() for parts in zip(*steps, strict=True)]


def similarity(now: Array, earlier: Array) -> Array:
    """Cosine similarity of the vectors ``[T, N, D]`` of each step with those ``[T, H, D]`` of this
    step and of those before it.

    Returns:
        ``[T, N, T, H]``, NaN where the second is of a later step; 0 where one of the vectors is.
    """
    now, earlier = (
        x / np.linalg.norm(x, axis=-1, keepdims=True).clip(min=1e-30) for x in (now, earlier)
    )
    steps = np.arange(len(now))
    result: Array = np.einsum("tnd,shd->tnsh", now, earlier, optimize=True)
    return np.where((steps[:, None] >= steps)[:, None, :, None], result, np.float32(np.nan))


class _Square(NamedTuple):
    title: str
    values: Array
    """Steps down and across, ``[T, N, T, H]``, or a matrix."""
    down: str
    across: str
    scale: str


class _Lines(NamedTuple):
    title: str
    values: Mapping[str, Array]
    """By the name in the legend, which is left out where there is one line; each ``[T]``."""
    height: str
    top: float | None = None


def memory_figure(episode: Episode, look: Mapping[str, Array]) -> Figure:
    """The picture of what :func:`look_into_memory` gives."""
    if isinstance(episode.core, MnmCore):
        R = episode.core.replay
        squares = [
            _Square(
                "Keys: the read key of each step\nagainst the write key of every step up to it",
                look["key_similarity"],
                "time step of the read",
                "time step of the write",
                "cosine similarity of read key and write key",
            ),
            _Square(
                "Values: the value read at each step\nagainst the value written at every step up "
                "to it",
                look["value_similarity"],
                "time step of the read",
                "time step of the write",
                "cosine similarity of value read and value written",
            ),
        ]
        layers = {f"layer {l}": change for l, change in enumerate(look["layer_change"].T, 1)}
        lines = [
            _Lines(
                "Write strength: how much of a full write each step makes",
                {"": look["write_strength"]},
                "β",
                top=1,
            ),
            _Lines(
                "Change of the memory: how far each step's write moves the weights of each layer",
                layers,
                "|ΔW|",
            ),
            _Lines(
                "Meta-loss: error when the value just written"
                + (f", and the {R} before it, are" if R else " is")
                + " read back with the write key",
                {"": look["meta_loss"]},
                "mean square",
            ),
        ]
    else:
        squares = [
            _Square(
                "Hebbian trace at the end of the episode:\nhow each connection between two "
                "neurons has changed",
                look["trace"][-1],
                "to neuron",
                "from neuron (one step earlier)",
                "Hebbian trace",
            ),
            _Square(
                "Hebbian trace after each step\nagainst the trace after every step up to it",
                look["trace_similarity"],
                "time step",
                "earlier time step",
                "cosine similarity of the two traces",
            ),
        ]
        lines = [
            _Lines(
                "Change of the memory: how far each step moves the Hebbian trace",
                {"": look["trace_change"]},
                "|ΔHebb|",
            ),
            _Lines(
                "Size of the memory: how far the Hebbian trace is from empty",
                {"": look["trace_size"]},
                "|Hebb|",
            ),
        ]
    return _draw(episode, squares, lines)


def _draw(episode: Episode, squares: Sequence[_Square], lines: Sequence[_Lines]) -> Figure:
    rows = [str(i) for i in range(len(lines))]
    figure, axes = plt.subplot_mosaic(
        # left and right, marks, and one row of lines after the other
        "\n".join(["LR", "MM", *(2 * row for row in rows)]),
        figsize=(8.6, 5.6 + 1.3 * len(lines)),
        height_ratios=[5.2, 0.45, *[1.0] * len(lines)],
        layout="constrained",
    )
    T, (good, bad) = len(episode.rewards), episode.marks
    at_good, at_bad = episode.marks.values()
    title = (
        f"{episode.run.agent} on {episode.run.environment}: one episode, {len(at_good)} × {good}, "
        f"{len(at_bad)} × {bad}"
    )
    figure.suptitle(title, fontweight="bold")
    for place, square in zip("LR", squares, strict=True):
        _draw_square(axes[place], square, at_good)

    of_time = [axes["M"], *(axes[row] for row in rows)]
    for at in of_time:
        at.set_xlim(-0.5, T + 0.5)
        at.xaxis.set_major_locator(MaxNLocator(integer=True))
        at.spines[["top", "right"]].set_visible(False)
        at.tick_params(labelbottom=at is of_time[-1])
    axes["M"].plot(at_good, [1] * len(at_good), "v", color=GOOD, markersize=5)
    axes["M"].plot(at_bad, [0] * len(at_bad), "x", color=BAD, markersize=4)
    axes["M"].set_ylim(-0.6, 1.6)
    axes["M"].set_yticks([1, 0], [good, bad], fontsize=9)
    axes["M"].tick_params(axis="y", length=0)
    for tick, color in zip(axes["M"].get_yticklabels(), (GOOD, BAD), strict=True):
        tick.set_color(color)
    for row, panel in zip(rows, lines, strict=True):
        at = axes[row]
        for t in at_good if len(at_good) < T / 2 else []:  # more would hide what is drawn
            at.axvline(t, color=GOOD, linewidth=0.8, alpha=0.4)
        for (name, values), color in zip(panel.values.items(), cycle(LINES), strict=False):
            at.plot(values, color=color, linewidth=1.3, label=name)
        at.set_title(panel.title, loc="left", fontsize=9)
        at.set_ylabel(panel.height, fontsize=9)
        at.set_ylim(0, panel.top)
        if len(panel.values) > 1:
            at.legend(
                loc="lower right",
                bbox_to_anchor=(1.01, 0.94),
                ncols=5,
                frameon=False,
                fontsize=8,
                handlelength=1.2,
            )
    of_time[-1].set_xlabel("time step of the episode: actions taken so far", fontsize=9)
    figure.align_ylabels(of_time)
    return figure


def _draw_square(axes: Axes, square: _Square, at_good: Sequence[int]) -> None:
    timed = square.values.ndim == 4
    T = len(square.values)
    values = square.values.reshape(T * square.values.shape[1], -1) if timed else square.values
    limit = scale_of(values)
    ends = (-0.5, T - 0.5, T - 0.5, -0.5)
    image = axes.imshow(
        values, cmap=SIMILAR, vmin=-limit, vmax=limit, extent=ends, interpolation="nearest"
    )
    axes.set_title(square.title, fontsize=9, pad=14 if timed else 6)
    axes.set_xlabel(square.across, fontsize=9)
    axes.set_ylabel(square.down, fontsize=9)
    bar = axes.figure.colorbar(image, ax=axes, location="bottom", shrink=0.8, aspect=30)
    bar.set_label(square.scale, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if timed:
        text = "not yet\nwritten" if "write" in square.across else "later"
        axes.text(
            0.72,
            0.78,
            text,
            transform=axes.transAxes,
            ha="center",
            va="center",
            color="gray",
            fontsize=9,
        )
        for t in (t for t in at_good if t < T):
            axes.plot(
                t,
                1.02,
                "v",
                color=GOOD,
                markersize=4,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
            )
            axes.plot(
                1.02,
                t,
                "<",
                color=GOOD,
                markersize=4,
                transform=axes.get_yaxis_transform(),
                clip_on=False,
            )


def scale_of(values: Array) -> float:
    """The end of a color scale that is symmetric around zero."""
    return float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
