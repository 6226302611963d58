"""What works with Stable-Baselines3's algorithms works with these: environments, callbacks and code
that its users have."""

import io
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_as_sb3
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from torch import nn

from mnm_rl import GymnasiumVecEnv, RecurrentA2C, RecurrentPPO
from mnm_rl.algorithms.updates import evaluate
from mnm_rl.callbacks import MaskableEvalCallback
from mnm_rl.evaluation import evaluate_policy

FIVE = 5
SHORT: dict[str, Any] = {"n_steps": 8, "device": "cpu"}


class Five(gym.Env[Any, Any]):
    """Episodes of five steps, with a reward of 1 at each."""

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (3,))
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.seen(), 1.0, self.t == FIVE, False, {}

    def seen(self) -> Any:
        return self.observation_space.sample()


class BlowsUp(Five):
    """The last observation is of a simulator that is lost."""

    def seen(self) -> Any:
        return np.full(3, np.nan if self.t == FIVE else 0.0, np.float32)


class Marks(Five):
    """Has a word of its own for what GymnasiumVecEnv marks, too."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action)
        return (*rest, info | {"reset_step": True, "reset_follows": True})  # type: ignore[return-value]


class Nested(Five):
    observation_space = spaces.Dict(a=spaces.Dict(b=spaces.Box(-1, 1, (2,))))


class Pair(Five):
    observation_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])


class Whole(Five):
    action_space = spaces.Box(0, 10, (2,), np.int64)


class Pictures(Five):
    observation_space = spaces.Box(0, 1, (3, 40, 40))


class OwnStep(VectorWrapper[Any, Any, Any]):
    """A wrapper that would notice a reset with a mask."""

    def step(self, actions: Any) -> Any:
        return self.env.step(actions)


def in_next_step(env: Callable[[], gym.Env[Any, Any]]) -> VectorEnv[Any, Any, Any]:
    return OwnStep(SyncVectorEnv([env, env]))


class Vectorized:
    """No environment of Stable-Baselines3's, nor of Gymnasium's."""

    num_envs, render_mode = 2, None
    observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)

    def reset(self) -> Any:
        return np.zeros((2, 3), np.float32)

    def step_async(self, actions: Any) -> None: ...

    def step_wait(self) -> Any:
        return self.reset(), np.ones(2, np.float32), np.zeros(2, bool), [{}, {}]

    def env_is_wrapped(self, wrapper_class: Any) -> list[bool]:
        return [False, False]


class LikeSuperSuit(VecEnvWrapper):
    """Built without the constructor of its class, as SuperSuit's."""

    def __init__(self) -> None:
        self.venv, self.num_envs, self.render_mode = Vectorized(), 2, None  # type: ignore[assignment]
        self.observation_space = self.venv.observation_space
        self.action_space, self.reset_infos = self.venv.action_space, []

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.venv, attr_name)] * 2

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False, False]


class OfASimulator(VecEnv):
    """What it calls its ``env`` is not of Gymnasium."""

    def __init__(self) -> None:
        self.env, self.render_mode = Vectorized(), None
        super().__init__(2, self.env.observation_space, self.env.action_space)

    def reset(self) -> Any:
        return self.env.reset()

    def step_async(self, actions: Any) -> None: ...

    def step_wait(self) -> Any:
        return self.env.step_wait()

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name)] * 2

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        return [None] * 2

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False, False]


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
@pytest.mark.parametrize("env", [LikeSuperSuit, OfASimulator])
def test_vectorized_environments_of_other_libraries(algorithm: Any, env: type[VecEnv]) -> None:
    assert algorithm("GruPolicy", env(), **SHORT).learn(16).num_timesteps == 16


class Reads(BaseCallback):
    """Reads the rollout in minibatches of single steps."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        before = buffer.sequence()._replace(recording=None)
        self.steps = sum(len(data.advantages) for data in buffer.get(3))
        after = buffer.sequence()._replace(recording=None)
        torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
@pytest.mark.parametrize("space", [Five.observation_space, spaces.Dict(a=Five.observation_space)])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_callback_may_read_the_rollout_and_changes_nothing(
    algorithm: Any, space: spaces.Space[Any], n_envs: int
) -> None:
    class OfSpace(Five):
        observation_space = space

    reads = Reads()
    algorithm("GruPolicy", DummyVecEnv([OfSpace] * n_envs), **SHORT).learn(32, reads)
    assert reads.steps == 8 * n_envs


def test_a_part_of_the_weights_can_be_loaded_alone() -> None:
    model = RecurrentPPO("GruPolicy", "CartPole-v1", n_steps=64, device="cpu").learn(128)
    policy, before = model.policy, model.policy.popart.mean.clone()
    assert before > 1
    heads = {name: value for name, value in policy.state_dict().items() if "action_net" in name}
    policy.load_state_dict(heads, strict=False)
    model.set_parameters({"policy": heads}, exact_match=False)
    assert policy.popart.mean == before


@pytest.mark.parametrize("env", [BlowsUp, lambda: in_next_step(BlowsUp)], ids=["one", "next step"])
def test_an_episode_may_end_with_an_observation_that_nobody_needs(env: Any) -> None:
    model = RecurrentPPO("GruPolicy", env(), **SHORT).learn(32)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_the_info_of_an_environment_means_what_it_means_there() -> None:
    env = DummyVecEnv([Marks])
    rewards = RecurrentPPO("GruPolicy", env, **SHORT).learn(8).rollout_buffer.rewards
    assert (rewards == 1).all()


@pytest.mark.parametrize("env", [Nested, Pair])
def test_what_training_flattens_evaluations_flatten_too(env: type[Five]) -> None:
    model = RecurrentPPO("GruPolicy", env(), **SHORT)
    model.learn(8, MaskableEvalCallback(env(), eval_freq=4, n_eval_episodes=1, warn=False))
    returns, lengths = evaluate_policy(model, env(), 2, return_episode_rewards=True, warn=False)
    assert (returns, lengths) == ([5, 5], [5, 5])
    with pytest.raises(ValueError, match=r"flattened with gymnasium\.spaces\.flatten"):
        model.predict(env().reset()[0])
    flat = spaces.flatten(env.observation_space, env().reset()[0])
    model.predict(flat)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [lambda: SyncVectorEnv([Five] * 2), lambda: in_next_step(Five)])
def test_a_vector_environment_is_evaluated_by_episodes(make: Any) -> None:
    model = RecurrentPPO("GruPolicy", make(), **SHORT)
    wrapped = GymnasiumVecEnv(make())
    for found in (
        evaluate_policy(model, make(), 2, return_episode_rewards=True),
        evaluate_as_sb3(model, wrapped, 2, return_episode_rewards=True),
    ):
        assert found == ([5, 5], [5, 5])


class AtStart(BaseCallback):
    """What a rollout begins with."""

    seen: list[tuple[int, bool]]

    def _init_callback(self) -> None:
        self.seen = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        model: Any = self.model
        self.seen.append((model.rollout_buffer.pos, model.policy.training))


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize(("ours", "theirs"), [(RecurrentPPO, PPO), (RecurrentA2C, A2C)])
def test_a_rollout_starts_as_in_sb3(ours: Any, theirs: Any) -> None:
    mine, sb3s = AtStart(), AtStart()
    ours("GruPolicy", Five(), **SHORT).learn(24, mine)
    theirs("MlpPolicy", Five(), **SHORT).learn(24, sb3s)
    assert mine.seen == sb3s.seen == [(0, False)] * 3


def test_load_takes_the_arguments_in_the_order_of_sb3() -> None:
    file = io.BytesIO()
    RecurrentPPO("GruPolicy", Five(), **SHORT).save(file)
    model = RecurrentPPO.load(file, None, "cpu", {"learning_rate": 0.1})
    assert model.learning_rate == 0.1


def test_normalized_pictures_are_seen_by_a_cnn_if_they_are_said_to_be() -> None:
    def extractor(**policy_kwargs: Any) -> str:
        model = RecurrentPPO("GruPolicy", Pictures(), policy_kwargs=policy_kwargs, **SHORT)
        model.learn(8)
        return type(model.policy.features_extractor).__name__

    assert extractor(normalize_images=False) == "NatureCNN"
    assert extractor() == "FlattenExtractor"


def test_actions_in_whole_numbers_keep_the_probability_that_they_were_sampled_with() -> None:
    model = RecurrentPPO("GruPolicy", Whole(), **SHORT)
    _, callback = model._setup_learn(8)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 8)  # type: ignore[arg-type]
    rollout = model.rollout_buffer.sequence()
    torch.testing.assert_close(evaluate(model.policy, rollout)[1], rollout.log_prob)


def test_an_environment_without_masks_for_now_allows_everything() -> None:
    class Sometimes(Five):
        def action_masks(self) -> Any:
            return None if self.t % 2 else np.array([False, True])

    model = RecurrentPPO("GruPolicy", DummyVecEnv([Sometimes, Sometimes]), **SHORT).learn(16)
    masks = torch.stack(model.rollout_buffer._action_masks)
    assert masks[:, :, 1].all()
    assert not masks[0, :, 0].any()
    assert masks[1, :, 0].all()


@pytest.mark.parametrize("name", ["GruPolicy", "RnnPolicy", "SaluPolicy", "NtmPolicy"])
def test_episode_starts_may_be_floats_as_in_sb3_contrib(name: str) -> None:
    policy = RecurrentPPO(name, Five(), **SHORT).policy
    state, obs = policy.initial_state(2), torch.zeros(2, 3)
    for starts in (torch.ones(2), torch.zeros(2)):
        value = policy.predict_values(obs, state, starts)
        assert value.equal(policy.predict_values(obs, state, starts.bool()))
        policy.get_distribution(obs, state, starts)
        policy.evaluate_actions(obs[None], torch.zeros(1, 2), state, starts[None])


class NoSpace(gym.Env[Any, Any]):
    action_space = spaces.Discrete(2)


class TooMany(nn.Flatten):
    features_dim = 2

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__()


def own_critic() -> Any:
    policy = RecurrentPPO("MlpLstmPolicy", Five(), **SHORT).policy
    _, state = policy.predict(np.zeros((1, 3), np.float32))
    assert state is not None
    return policy.predict_values(
        torch.zeros(1, 3), tuple(map(torch.tensor, state)), torch.ones(1, dtype=torch.bool)
    )


def without_environments() -> Any:
    file = io.BytesIO()
    RecurrentPPO("GruPolicy", Five(), **SHORT).save(file)
    return RecurrentPPO.load(file).learn(8)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: RecurrentPPO("GruPolicy", NoSpace()), "NoSpace, which has no observation_space"),
        (lambda: RecurrentPPO("GruPolicy", Five), r"the class Five; call it: Five\(\)"),  # type: ignore[arg-type]
        (lambda: RecurrentPPO(None, Five()), "policy must be a name .* or a policy class"),  # type: ignore[arg-type]
        (without_environments, "there are no environments to learn in"),
        (own_critic, "must have the 4 parts that initial_state gives, got 2"),
        (
            lambda: RecurrentPPO(
                "GruPolicy", Five(), policy_kwargs={"features_extractor_class": TooMany}, **SHORT
            ).learn(8),
            "TooMany gives 3 features, and its features_dim is 2",
        ),
        (
            lambda: RecurrentPPO("GruPolicy", Five(), clip_range="lin_0.2"),  # type: ignore[arg-type]
            "clip_range must be a number or a function",
        ),
    ],
)
def test_mistakes_are_said_in_words(mistake: Callable[[], Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        mistake()


def test_set_env_takes_an_id() -> None:
    model = RecurrentPPO("GruPolicy", "CartPole-v1", **SHORT)
    model.set_env("CartPole-v1")  # type: ignore[arg-type]
    assert model.learn(8).num_timesteps == 8
