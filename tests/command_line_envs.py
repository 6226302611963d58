"""Environments that the command line imports by name, as in ``--env
command_line_envs:mnm-test/Counting-v0``."""

import os
import signal
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from tests.counting import Counting, Recall


class Breaking(Counting):
    """Goes wrong in its tenth step, over all its episodes."""

    def __init__(self, what: str, render_mode: str | None = None) -> None:
        super().__init__(length=1000)
        self.what = what
        self.steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        if self.steps >= 10:
            if self.what == "raises":
                raise ZeroDivisionError("the ball is gone")
            if self.what == "OS error":
                raise OSError(5, "the camera is gone")
            if self.what == "broken pipe":
                raise BrokenPipeError(32, "the simulator is gone")
            if self.what == "done is None":
                return obs, reward, None, False, info  # type: ignore[return-value]
            if self.what == "reward is None":
                return obs, None, False, False, info  # type: ignore[return-value]
            if self.what == "short observation":
                return obs[:1], reward, False, False, info
            if self.what == "exits":
                sys.exit(3)
            if self.what == "nan final observation":
                return obs * np.nan, reward, False, True, info
            if self.what == "nan observation":
                obs = obs * np.nan
            reward = {"nan reward": float("nan"), "huge reward": 1e30}.get(self.what, reward)
        return obs, reward, terminated, truncated, info


class BrokenAtReset(Counting):
    """Goes wrong before its first step."""

    def __init__(self, what: str, render_mode: str | None = None) -> None:
        super().__init__()
        self.what = what

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if self.what == "raises":
            raise LookupError("the box is empty")
        obs, info = super().reset(seed=seed, options=options)
        return obs * np.nan, info


class Deadly(Recall):
    """Kills the second of the processes that train in it, in the step that ``MNM_TEST_DEADLY_STEP``
    names."""

    steps = 0

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if os.environ.get("RANK") == "1" and str(self.steps) == os.environ.get(
            "MNM_TEST_DEADLY_STEP"
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class ExitsAtOnce(Counting):
    """Ends the process where it should be made."""

    def __init__(self, render_mode: str | None = None) -> None:
        sys.exit("no licence")


class Text(Counting):
    """Observes text, which no agent can use."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.observation_space = spaces.Text(5)


gym.register("mnm-test/Counting-v0", Counting)
gym.register("mnm-test/Text-v0", Text)
gym.register("mnm-test/Deadly-v0", Deadly)
gym.register("mnm-test/NanReward-v0", Breaking, kwargs={"what": "nan reward"})
gym.register("mnm-test/NanObservation-v0", Breaking, kwargs={"what": "nan observation"})
gym.register("mnm-test/HugeReward-v0", Breaking, kwargs={"what": "huge reward"})
gym.register("mnm-test/RaisesAtReset-v0", BrokenAtReset, kwargs={"what": "raises"})
gym.register("mnm-test/NanAtReset-v0", BrokenAtReset, kwargs={"what": "nan"})
gym.register("mnm-test/ExitsAtOnce-v0", ExitsAtOnce)
gym.register("mnm-test/NanFinalObservation-v0", Breaking, kwargs={"what": "nan final observation"})
gym.register("mnm-test/Raises-v0", Breaking, kwargs={"what": "raises"})
gym.register("mnm-test/OSError-v0", Breaking, kwargs={"what": "OS error"})
gym.register("mnm-test/BrokenPipe-v0", Breaking, kwargs={"what": "broken pipe"})
gym.register("mnm-test/DoneIsNone-v0", Breaking, kwargs={"what": "done is None"})
gym.register("mnm-test/RewardIsNone-v0", Breaking, kwargs={"what": "reward is None"})
gym.register("mnm-test/ShortObservation-v0", Breaking, kwargs={"what": "short observation"})
gym.register("mnm-test/Exits-v0", Breaking, kwargs={"what": "exits"})
