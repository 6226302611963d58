"""State, observation and episode start advance together, whatever interrupts a rollout and wherever
it does."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper
from torch import Tensor

from tests.counting import Counting
from tests.policies import ROUNDING

N_STEPS = 6
HOW = [
    "env",
    "ctrl-c in env",
    "ctrl-c in the policy",
    "callback stops",
    "callback raises",
    "ctrl-c in a callback",
]


class Stop(Exception):
    """What the tests raise."""


class Recorder(VecEnvWrapper):
    """Keeps what it has shown, and fails once before its step number ``fails_at``."""

    def __init__(self, fails_at: int = -1, error: type[BaseException] = Stop) -> None:
        super().__init__(
            DummyVecEnv([lambda n=n: Counting(n, truncates=n == 4) for n in (3, 4, 9)])
        )
        self.fails_at, self.error, self.shown, self.steps = fails_at, error, [], 0

    def reset(self) -> Any:
        obs = self.venv.reset()
        self.shown.append((obs, np.ones(3, bool)))
        return obs

    def step_wait(self) -> Any:
        if self.steps == self.fails_at:
            self.fails_at = -1
            raise self.error
        self.steps += 1
        obs, rewards, dones, infos = self.venv.step_wait()
        self.shown.append((obs, dones.copy()))
        return obs, rewards, dones, infos


class AtStep(BaseCallback):
    def __init__(self, step: int, how: str) -> None:
        super().__init__()
        self.step, self.how = step, how

    def _on_step(self) -> bool:
        if self.n_calls - 1 == self.step:
            if self.how == "callback raises":
                raise Stop
            if self.how == "ctrl-c in a callback":
                raise KeyboardInterrupt
            return self.how != "callback stops"
        return True


def interrupt(model: Any, how: str, step: int) -> None:
    """Learn until something interrupts it at its step number ``step``, counted from 0."""
    callback = None
    if how in ("env", "ctrl-c in env"):
        model.env.fails_at, model.env.error = step, Stop if how == "env" else KeyboardInterrupt
    elif how == "ctrl-c in the policy":  # after the memory has taken the step
        calls = iter(range(10**6))

        def stop(*_: Any) -> None:
            if next(calls) == step:
                raise KeyboardInterrupt

        handle = model.policy.action_net.register_forward_hook(stop)
    else:
        callback = AtStep(step, how)
    try:
        model.learn(3 * 2 * N_STEPS, callback=callback)
        assert how == "callback stops"
    except (Stop, KeyboardInterrupt):
        assert how != "callback stops"
    if how == "ctrl-c in the policy":
        handle.remove()


def reference(model: Any) -> tuple[Tensor, list[Any]]:
    """Values of all that was shown, and the states that it was seen in, of the core's own equations
    over the whole history."""
    policy = copy.deepcopy(model.policy)
    policy.core.path = "plain"
    state, values, states = policy.initial_state(3), [], []
    with torch.no_grad():
        for obs, starts in model.env.shown:
            states.append(state)
            _, value, _, state = policy.forward(
                torch.as_tensor(obs), state, torch.as_tensor(starts)
            )
            values.append(value.flatten())
    return torch.stack(values), states


@pytest.mark.parametrize(
    "name", ["lstm", "mnm-p", "mnm-g, another for the critic", "salu", "retroactive", "rnn"]
)
@pytest.mark.parametrize("how", HOW)
def test_learning_goes_on_from_where_the_environments_are(make: Any, name: str, how: str) -> None:
    for step in (0, 2, 5, 7, 10):
        model = make(name, Recorder(), n_steps=N_STEPS, learning_rate=0.0)
        interrupt(model, how, step)
        values, states = reference(model)
        obs, starts = model.env.shown[-1]
        np.testing.assert_array_equal(model._last_obs, obs)
        np.testing.assert_array_equal(model._last_episode_starts, starts)
        if model._last_state is None:  # nothing has happened
            assert step == 0
        else:
            torch.testing.assert_close(tuple(model._last_state), tuple(states[-1]), **ROUNDING)
        model.learn(3 * N_STEPS, reset_num_timesteps=False)
        values, states = reference(model)
        np.testing.assert_allclose(
            model.rollout_buffer.values, values[-N_STEPS - 1 : -1], rtol=1e-3, atol=1e-4
        )


def test_a_copy_in_the_middle_of_a_rollout_is_of_one_moment(make: Any) -> None:
    model = make("mnm-p", Recorder(), n_steps=N_STEPS, learning_rate=0.0)
    moments = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            moments.append((self.model._last_obs, copy.deepcopy(self.model._moment).state()))  # type: ignore[attr-defined]
            return True

    model.learn(3 * 2 * N_STEPS, callback=Look())
    _, states = reference(model)
    for (obs, state), (shown, _), expected in zip(moments, model.env.shown, states, strict=False):
        np.testing.assert_array_equal(obs, shown)
        torch.testing.assert_close(tuple(state), tuple(expected), **ROUNDING)


@pytest.mark.parametrize("how", ["set_parameters", "load_from_vector", ".data"])
@pytest.mark.parametrize(
    "name", ["lstm", "mnm-p", "mnm-g, another for the critic", "salu", "retroactive", "rnn"]
)
def test_parameters_that_a_callback_sets_act_from_the_next_step_on(
    make: Any, name: str, how: str
) -> None:
    model = make(name, Recorder(), n_steps=N_STEPS, learning_rate=0.0)
    other = make(name, Recorder(), seed=1)
    before = {key: part.clone() for key, part in model.policy.state_dict().items()}

    class Set(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 3:
                if how == "set_parameters":
                    self.model.set_parameters(other.get_parameters(), device="cpu")
                elif how == "load_from_vector":
                    self.model.policy.load_from_vector(other.policy.parameters_to_vector())
                else:
                    for p, q in zip(
                        self.model.policy.parameters(), other.policy.parameters(), strict=True
                    ):
                        p.data.copy_(q.data)
            return True

        def _on_rollout_end(self) -> None:
            policy, state, values = (
                copy.deepcopy(self.model.policy),
                self.model.policy.initial_state(3),
                [],
            )  # type: ignore[operator]
            policy.core.path = "plain"  # type: ignore[union-attr]
            for t, (obs, starts) in enumerate(self.model.env.shown[:-1]):  # type: ignore[union-attr]
                policy.load_state_dict(before if t < 3 else other.policy.state_dict())
                with torch.no_grad():
                    _, value, _, state = policy.forward(
                        torch.as_tensor(obs), state, torch.as_tensor(starts)
                    )  # type: ignore[assignment,misc,arg-type]
                values.append(value.flatten())
            np.testing.assert_allclose(
                self.model.rollout_buffer.values, torch.stack(values), rtol=1e-3, atol=1e-4
            )  # type: ignore[attr-defined]

    model.learn(3 * N_STEPS, callback=Set())
    assert model.rollout_buffer.full
