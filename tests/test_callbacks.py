"""Callbacks: signals are caught while a training runs in the main thread, and only then."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from mnm_rl import RecurrentA2C
from mnm_rl.callbacks import StopOnSignal, StoppedTraining
from mnm_rl.files import STOPPING
from tests.counting import Recall
from tests.policies import small


class Sending(BaseCallback):
    """Sends a signal, or raises an error, in step 3."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def _on_step(self) -> bool:
        if self.n_calls == 3:
            if isinstance(self.what, Exception):
                raise self.what
            signal.raise_signal(self.what)
        return True


came: list[int] = []


def of_the_user(number: int, frame: object) -> None:
    came.append(number)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """A user's own, who has them back after every training."""
    came.clear()
    before = {number: signal.signal(number, of_the_user) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handled_by_the_user() -> bool:
    """Whether signals reach the user's handlers again."""
    came.clear()
    for number in STOPPING:
        signal.raise_signal(number)
    return came == [*STOPPING] and all(
        signal.getsignal(number) is of_the_user for number in STOPPING
    )


def model() -> Any:
    return small(RecurrentA2C, "lstm", make_vec_env(Recall, n_envs=2), n_steps=5)


@pytest.mark.parametrize("algorithm", ["ours", "stable_baselines3"])
def test_handlers_are_restored_after_a_training(algorithm: str) -> None:
    learner = (
        model() if algorithm == "ours" else A2C("MlpPolicy", make_vec_env(Recall), device="cpu")
    )
    stop = StopOnSignal()
    for _ in range(2):  # the callback may be used again
        learner.learn(30, callback=stop)
        assert all(signal.getsignal(number) is of_the_user for number in STOPPING)
        assert handled_by_the_user()


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_ends_a_training_after_its_update(number: int, monkeypatch: Any) -> None:
    learner, stop = model(), StopOnSignal()
    before = learner.policy.parameters_to_vector()
    with pytest.raises(StoppedTraining):
        learner.learn(100, callback=[stop, Sending(number)])
    assert learner.num_timesteps == 10
    assert not np.array_equal(learner.policy.parameters_to_vector(), before)
    assert stop.stopped
    assert not stop.at_once
    assert came == []
    signal.raise_signal(number)  # it comes together with the first
    assert came == []
    monkeypatch.setattr("mnm_rl.callbacks.time.monotonic", lambda: stop._since + 1)
    assert handled_by_the_user()
    # a new training is not the stopped one
    learner.learn(20, callback=stop, reset_num_timesteps=False)


def test_a_second_signal_interrupts_at_once(monkeypatch: Any) -> None:
    stop, now = StopOnSignal(), iter([0.0, 1.0])
    monkeypatch.setattr("mnm_rl.callbacks.time.monotonic", lambda: next(now))
    learner = model()
    with pytest.raises(KeyboardInterrupt):
        learner.learn(100, callback=[stop, Sending(signal.SIGINT), Sending(signal.SIGINT)])
    assert stop.at_once


def test_signals_are_the_users_after_an_error_ended_the_training() -> None:
    stop, learner = StopOnSignal(), model()
    for _ in range(2):
        with pytest.raises(OSError, match="no license"):
            learner.learn(100, callback=[stop, Sending(OSError("no license"))])
    assert handled_by_the_user()


def test_in_another_thread_signals_stay_as_they_are() -> None:
    """As in a notebook's worker thread: only the main thread has signals."""
    stop, learner = StopOnSignal(), model()
    errors: list[BaseException] = []

    def train() -> None:
        try:
            learner.learn(30, callback=stop)
            stop.restore()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert errors == []
    assert learner.num_timesteps == 30
    assert handled_by_the_user()
