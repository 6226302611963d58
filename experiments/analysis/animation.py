"""Episodes of runs as an animation, side by side: what the agent does, and what its memory does
meanwhile."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw

from experiments.analysis.probes import GOOD, SIMILAR, look_into_memory, scale_of
from experiments.configuration import Run
from experiments.episode import Episode, play
from mnm_rl.cores import MnmCore, PlasticCore

Panel = Callable[[int], Image.Image]
"""Draws how things are after so many actions."""

GAP, HEAD, AXIS, MARK, LEAST = 14, 38, 18, 8, 216
"""Pixels: between two panels, the text above a panel, the name of an axis, the marks along it, and
the room that a text needs."""


def record_gif(
    runs: Sequence[tuple[Path, Run]], path: Path, seed: int, deterministic: bool
) -> None:
    """Record one episode of each run (at most 1,000 steps) as one animation, side by side, each
    with its memory on its right.

    Agents without fast weights are shown without a memory. An episode that ends before the others
    stays as it was.

    Raises:
        UsageError: if an environment cannot be drawn.
    """
    panels: list[Panel] = []
    last = 0
    for directory, run in runs:
        episode = play(directory, run, seed, deterministic, pictures=True)
        last = max(last, len(episode.rewards))
        panels.append(_scene(episode))
        if isinstance(episode.core, MnmCore | PlasticCore):
            panels.append(_memory(episode))
    frames = [_side_by_side([panel(t) for panel in panels]) for t in range(last + 1)]
    # one palette, so that what does not change takes no space
    colors = frames[-1].quantize(255, method=Image.Quantize.MAXCOVERAGE)
    first, *others = (frame.quantize(palette=colors, dither=Image.Dither.NONE) for frame in frames)
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=[120] * last + [1500],
        loop=0,
    )


def _scene(episode: Episode) -> Panel:
    """The environment, below the agent's name."""
    T = len(episode.rewards)
    returns = [0.0, *np.cumsum(episode.rewards)]

    def draw(t: int) -> Image.Image:
        t = min(t, T)
        seen = Image.fromarray(episode.pictures[t])
        width = max(LEAST, seen.width)
        picture = _panel(
            width,
            seen.height + HEAD,
            episode.run.agent,
            f"step {t} of {T}, return {returns[t]:.0f}",
        )
        picture.paste(seen, ((width - seen.width) // 2, HEAD))
        return picture

    return draw


def _memory(episode: Episode) -> Panel:
    """What was read against what was written, as it comes, one row a step; or the Hebbian trace as
    it changes."""
    look, T = look_into_memory(episode), len(episode.rewards)
    neural = "value_similarity" in look
    side = max(LEAST, episode.pictures[0].shape[0] - AXIS - MARK)
    good = next(iter(episode.marks))
    if neural:
        values = look["value_similarity"].mean(axis=(1, 3))
        text = "each value read, against those written", "purple: alike; orange: opposite"
        axes = f"step of the write; green: {good}", "step of the read"
    else:
        values = look["trace"]
        text = "Hebbian trace of each connection", "purple: positive; orange: negative"
        axes = "from neuron", "to neuron"
    # a trace changes everywhere at every step: more colors would take much more space
    colors = 31 if neural else 9
    limit = scale_of(values)
    colored = (
        mpl.colormaps[SIMILAR].resampled(colors)((values / limit + 1) / 2)[..., :3] * 255
    ).astype(np.uint8)
    colored[np.isnan(values)] = 255

    def draw(t: int) -> Image.Image:
        shown = colored[min(t, T - 1)]
        if neural:
            shown = np.where(np.arange(T)[:, None, None] <= t, colored, np.uint8(255))
        picture = _panel(AXIS + side + MARK, HEAD + MARK + side + AXIS, *text)
        left, top, right, bottom = AXIS, HEAD + MARK, AXIS + side, HEAD + MARK + side
        picture.paste(
            Image.fromarray(shown).resize((side, side), Image.Resampling.NEAREST), (left, top)
        )
        pen = ImageDraw.Draw(picture)
        pen.rectangle((left, top, right - 1, bottom - 1), outline="gray")
        pen.text(((left + right) / 2, bottom + 2), axes[0], fill="black", font_size=12, anchor="ma")
        name = Image.new("RGB", (side, AXIS), "white")
        ImageDraw.Draw(name).text((side / 2, 1), axes[1], fill="black", font_size=12, anchor="ma")
        picture.paste(name.rotate(90, expand=True), (0, top))
        for mark in (mark for mark in episode.marks[good] if neural and mark <= min(t, T - 1)):
            at = (mark + 0.5) * side / T
            pen.polygon(
                [(left + at - 3, top - 7), (left + at + 3, top - 7), (left + at, top - 2)],
                fill=GOOD,
            )
            pen.polygon(
                [(right + 6, top + at - 3), (right + 6, top + at + 3), (right + 1, top + at)],
                fill=GOOD,
            )
        return picture

    return draw


def _panel(width: int, height: int, title: str, subtitle: str) -> Image.Image:
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((width / 2, 2), title, fill="black", font_size=13, anchor="ma")
    pen.text((width / 2, 19), subtitle, fill="#404040", font_size=12, anchor="ma")
    return picture


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    width = sum(panel.width for panel in panels) + GAP * (len(panels) + 1)
    picture = Image.new("RGB", (width, max(panel.height for panel in panels) + GAP), "white")
    left = GAP
    for panel in panels:
        picture.paste(panel, (left, 0))
        left += panel.width + GAP
    return picture
