"""An episode of a run as an animation."""

from pathlib import Path

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from stable_baselines3.common.utils import set_random_seed

from experiments.command_line import UsageError, first_line
from experiments.run import Run, load_model, newest_model


def record_gif(directory: Path, run: Run, path: Path, seed: int, deterministic: bool) -> None:
    """Record one episode (at most 1,000 steps) as an animation.

    Raises:
        UsageError: if the environment cannot be drawn.
    """
    try:
        env = gym.make(run.env, render_mode="rgb_array", **run.env_kwargs)
        obs, _ = env.reset(seed=seed)
        frames = [env.render()]
    except Exception as error:
        raise UsageError(f"--gif: {run.env} cannot be drawn as pictures: {first_line(error)}") from error
    model = load_model(run, newest_model(directory), None, "cpu")
    set_random_seed(seed)
    state, done, total, texts = None, False, 0.0, [""]
    while not done and len(frames) < 1000:
        action, state = model.predict(obs, state, deterministic=deterministic)
        obs, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        done = terminated or truncated
        frames.append(env.render())
        texts.append(f"return {total:.0f}")
    pictures = [
        _captioned(np.asarray(frame), f"{run.agent}   step {t} of {len(frames) - 1}   {text}")
        for t, (frame, text) in enumerate(zip(frames, texts, strict=True))
    ]
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=120, loop=0)
    env.close()


def _captioned(frame: NDArray[np.uint8], text: str) -> Image.Image:
    picture = Image.new("RGB", (frame.shape[1], frame.shape[0] + 24), "white")
    picture.paste(Image.fromarray(frame), (0, 24))
    ImageDraw.Draw(picture).text((6, 4), text, fill="black", font_size=14)
    return picture
