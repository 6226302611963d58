"""The algorithms as Stable-Baselines3 algorithms: what they learn, save, predict, log and
refuse."""

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import HParam
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from mnm_rl import RecurrentA2C, RecurrentPPO, TrainingDivergedError
from mnm_rl.evaluation import evaluate_episodes
from tests.counting import Counting, Poisoned, Random, Recall
from tests.policies import POLICIES, ROUNDING, a2c, roll_out


@pytest.mark.parametrize("name", POLICIES)
def test_log_probabilities_and_values_of_the_rollout_are_those_of_the_update(name: str) -> None:
    """Across rollouts, with episodes of different lengths that end in the middle of them."""
    model = a2c(
        name,
        DummyVecEnv([lambda n=n: Counting(n) for n in (3, 4, 9)]),
        n_steps=7,
        learning_rate=0.0,
    )

    class Check(BaseCallback):
        checked = 0

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            algorithm = self.model
            assert isinstance(algorithm, RecurrentA2C)
            rollout = algorithm.rollout_buffer.sequence()
            values, log_prob, entropy, _ = algorithm.policy.evaluate_actions(
                rollout.observations,
                rollout.actions.long().squeeze(-1),
                rollout.initial_state,
                rollout.episode_starts,
                rollout.recording,
            )
            buffer = algorithm.rollout_buffer
            np.testing.assert_allclose(
                log_prob.detach().numpy(), buffer.log_probs, rtol=1e-4, atol=1e-6
            )
            np.testing.assert_allclose(values.detach().numpy(), buffer.values, rtol=1e-4, atol=1e-6)
            assert entropy is not None
            assert rollout.episode_starts.any(dim=1).sum() > 1
            self.checked += 1

    check = Check()
    model.learn(4 * 21, callback=check)
    assert check.checked == 4


@pytest.mark.parametrize("name", ["mnm-g", "mnm-p", "plastic", "lstm", "gru", "rnn"])
def test_learns_to_remember(name: str) -> None:
    """The cue is seen for one step only: without memory, half the episodes succeed."""
    model = a2c(
        name,
        make_vec_env(Recall, n_envs=32, seed=0),
        policy_kwargs={"hidden_size": 24, "ortho_init": False, "optimizer_class": torch.optim.Adam},
        n_steps=8,
        learning_rate=3e-3,
        gamma=0.9,
        normalize_advantage=True,
        ent_coef=0.01,
    )
    model.learn(40_000)
    mean, _ = evaluate_policy(
        model, make_vec_env(Recall, n_envs=8, seed=1), 100, deterministic=True
    )
    assert mean > 0.95


def test_truncated_episodes_are_bootstrapped_in_the_state_they_ended_in() -> None:
    lengths = (2, 3)
    model = a2c(
        "mnm-p",
        DummyVecEnv([lambda n=n: Counting(n, truncates=True) for n in lengths]),
        n_steps=6,
        gamma=0.5,
        gae_lambda=1.0,
    )
    state = model.policy.initial_state(1)
    roll_out(model)
    for env, length in enumerate(lengths):
        state = model.policy.initial_state(1)
        starts = torch.tensor([True])
        with torch.no_grad():
            for t in range(length):
                *_, state = model.policy(torch.tensor([[1.0, t]]), state, starts)
                starts = torch.tensor([False])
            value = model.policy.predict_values(torch.tensor([[1.0, length]]), state, starts).item()
        assert model.rollout_buffer.rewards[length - 1, env] == pytest.approx(
            length + 0.5 * value, rel=1e-5
        )
        assert model.rollout_buffer.rewards[length - 2, env] == length - 1


def test_a_rollout_keeps_what_the_gradient_needs_only_if_its_update_uses_it(make: Any) -> None:
    model = make("mnm-p", make_vec_env(Recall, n_envs=2), n_steps=6)
    roll_out(model)
    rollout = model.rollout_buffer.sequence()
    assert (rollout.recording is not None) == isinstance(model, RecurrentA2C)
    assert all(piece.recording is None for pieces in rollout.minibatches(6) for piece in pieces)


class IntegerRewards(Counting):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, int(reward), *rest


def test_truncated_episodes_of_integer_rewards_are_bootstrapped_too() -> None:
    """SubprocVecEnv gives integers where its environments do."""
    env = SubprocVecEnv([partial(IntegerRewards, 3, truncates=True)], start_method="fork")
    model = a2c("lstm", env, n_steps=4)
    roll_out(model)
    rewards = model.rollout_buffer.rewards[:, 0]
    assert rewards[[0, 1, 3]].tolist() == [1, 2, 1]
    assert rewards[2] % 1 != 0
    env.close()


def test_generalized_advantages() -> None:
    model = a2c("lstm", DummyVecEnv([lambda: Counting(3)]), n_steps=5, gamma=0.9, gae_lambda=0.8)
    roll_out(model)
    buffer, V = model.rollout_buffer, model.rollout_buffer.values[:, 0]
    delta_2 = 3 - V[2]  # the last step of the first episode
    delta_1 = 2 + 0.9 * V[2] - V[1]
    assert buffer.advantages[2, 0] == pytest.approx(delta_2, rel=1e-5)
    assert buffer.advantages[1, 0] == pytest.approx(delta_1 + 0.9 * 0.8 * delta_2, rel=1e-5)
    np.testing.assert_allclose(
        buffer.sequence().returns[:, 0], buffer.advantages[:, 0] + V, rtol=1e-5
    )


def test_the_loss_is_the_sum_of_its_parts_with_their_coefficients() -> None:
    """One step of gradient descent moves the parameters along the gradient of L."""
    coefficients = {"vf_coef": 0.3, "ent_coef": 0.2, "meta_coef": 0.7}
    sgd = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}, "popart": False}
    model = a2c(
        "mnm-g",
        make_vec_env(Recall, n_envs=3),
        sgd,
        n_steps=6,
        learning_rate=1.0,
        max_grad_norm=1e9,
        **coefficients,
    )
    roll_out(model)
    rollout = model.rollout_buffer.sequence()
    values, log_prob, entropy, meta_loss = model.policy.evaluate_actions(
        rollout.observations,
        rollout.actions.long().squeeze(-1),
        rollout.initial_state,
        rollout.episode_starts,
        rollout.recording,
    )
    assert entropy is not None
    loss = -(rollout.advantages * log_prob).mean() + 0.3 * (values - rollout.returns).pow(2).mean()
    loss = loss - 0.2 * entropy.mean() + 0.7 * meta_loss.mean()
    expected = [
        p - g
        for p, g in zip(
            model.policy.parameters(),
            torch.autograd.grad(loss, model.policy.parameters()),
            strict=True,
        )
    ]  # type: ignore[arg-type]
    model.train()
    torch.testing.assert_close(list(model.policy.parameters()), expected)


@pytest.mark.parametrize("name", POLICIES)
def test_predict_carries_and_resets_the_state(name: str) -> None:
    model = a2c(name, make_vec_env(Recall, n_envs=2))
    rng = np.random.default_rng(0)
    obs = rng.random((6, 5, 3)).astype(np.float32)  # a batch of 5, trained with 2
    starts = np.zeros((6, 5), bool)
    starts[3, 1] = True
    state: Any = None
    states = []
    for t in range(6):
        actions, state = model.predict(obs[t], state, starts[t])
        assert actions.shape == (5,)
        assert isinstance(state, tuple)
        assert all(isinstance(s, np.ndarray) and len(s) == 5 for s in state)
        states.append(state)
    alone: Any = None
    for t in range(3, 6):
        _, alone = model.predict(obs[t, 1], alone)
    for whole, single in zip(states[-1], alone, strict=True):
        np.testing.assert_allclose(whole[1], single[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make_env", [DummyVecEnv, SubprocVecEnv])
def test_a_seed_makes_the_same_training(make: Any, make_env: Any) -> None:
    results = []
    for _ in range(2):
        env = make_env([Recall] * 2)
        model = make("mnm-p", env, seed=3, n_steps=6).learn(48)
        results.append(model.policy.parameters_to_vector())
        env.close()
    np.testing.assert_allclose(*results, **ROUNDING)


def test_a_callback_that_stops_the_training_loses_no_step(make: Any) -> None:
    class StopAt(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps != 4

    model = make("mnm-p", DummyVecEnv([lambda: Counting(4)]), n_steps=6)
    model.learn(6, callback=StopAt())  # stops with the episode
    model.learn(6, reset_num_timesteps=False)
    buffer = model.rollout_buffer
    assert buffer.observations[:, 0].tolist() == [[2, 0], [2, 1], [2, 2], [2, 3], [3, 0], [3, 1]]
    assert buffer.episode_starts[:, 0].tolist() == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_can_be_saved_alone(name: str, tmp_path: Path) -> None:
    policy = a2c(name, make_vec_env(Recall, n_envs=2)).policy
    policy.save(str(tmp_path / "policy"))
    loaded = type(policy).load(str(tmp_path / "policy"), device="cpu")
    observation = np.ones((2, 3), np.float32)
    played, again = (either.predict(observation, deterministic=True) for either in (policy, loaded))
    torch.testing.assert_close(again, played, **ROUNDING)


def test_callbacks_evaluation_and_tensorboard(make: Any, tmp_path: Path) -> None:
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1)
    evaluation = EvalCallback(
        make_vec_env(Recall, n_envs=2),
        callback_on_new_best=stop,
        eval_freq=10,
        n_eval_episodes=4,
        log_path=str(tmp_path),
        verbose=0,
    )
    model = make(
        "plastic", make_vec_env(Recall, n_envs=2), tensorboard_log=str(tmp_path / "tb"), n_steps=10
    )
    model.learn(1000, callback=evaluation, log_interval=1)
    assert model.num_timesteps == 20  # stopped by the first evaluation
    assert (tmp_path / "evaluations.npz").exists()
    assert list(tmp_path.rglob("events.out.tfevents*"))


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_the_progress_bar_and_the_one_line_of_the_readme() -> None:
    model = RecurrentA2C(
        "MnmPolicy",
        "CartPole-v1",
        policy_kwargs={"write_rule": "p", "hidden_size": 8},
        device="cpu",
    )
    model.learn(50, progress_bar=True)
    mean, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=2)  # type: ignore[arg-type]
    assert mean > 0


def test_a_gymnasium_vector_environment_is_taken_as_it_is() -> None:
    model = RecurrentA2C(
        "LstmPolicy", gym.make_vec("mnm/MazeSmall-v0", num_envs=3, horizon=5), device="cpu"
    ).learn(30)
    assert model.n_envs == 3
    assert model.ep_info_buffer


def test_rewards_and_observations_can_be_normalized_by_stable_baselines3(make: Any) -> None:
    env = VecNormalize(make_vec_env(lambda: Counting(4, truncates=True), n_envs=2))
    make("lstm", env, n_steps=6).learn(48)


def test_state_dependent_exploration(make: Any) -> None:
    env = make_vec_env(lambda: Random(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))), n_envs=2)
    make("mnm-p", env, use_sde=True, sde_sample_freq=3, n_steps=6).learn(48)


def test_an_environment_that_exits_in_an_evaluation_is_named() -> None:
    class Exits(Counting):
        def step(self, action: Any) -> Any:
            sys.exit(3)

    env = make_vec_env(lambda: Exits(4), n_envs=1)
    model = RecurrentPPO("LstmPolicy", env, n_steps=4, policy_kwargs={"hidden_size": 4})
    with pytest.raises(
        RuntimeError, match=re.escape("an environment called sys.exit(3) in an evaluation")
    ):
        evaluate_episodes(model, env, 1)


def test_evaluate_episodes_reports_each_of_them() -> None:
    model = a2c("lstm", make_vec_env(lambda: Counting(4), n_envs=2))
    episodes = evaluate_episodes(model, make_vec_env(lambda: Counting(4), n_envs=3), 7)
    assert len(episodes) == 7
    assert {(e["return"], e["length"], e["last_words"]) for e in episodes} == {(10.0, 4, "goodbye")}


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_what_is_not_finite_stops_the_training(make: Any, what: str) -> None:
    model = make("mnm-p", DummyVecEnv([lambda: Counting(10), lambda: Poisoned(what)]))
    with pytest.raises(
        TrainingDivergedError, match=f"the {what} of environment 1 is NaN or infinite at step 8"
    ):
        model.learn(100)


def test_a_loss_that_is_not_finite_leaves_the_parameters_as_they_were(make: Any) -> None:
    model = make(
        "mnm-p",
        DummyVecEnv([lambda: Poisoned("loss")]),
        {"popart": False},
        normalize_advantage=False,
    )
    before = model.policy.parameters_to_vector()
    with pytest.raises(TrainingDivergedError, match="value_loss became inf at step 5"):
        model.learn(100)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


def test_parameters_that_become_not_finite_are_taken_back(make: Any) -> None:
    model = make(
        "mnm-p", make_vec_env(Recall, n_envs=2), {"popart": False}, learning_rate=float("inf")
    )
    before = model.policy.parameters_to_vector()
    with pytest.raises(TrainingDivergedError, match="parameters became NaN or infinite at step 10"):
        model.learn(100)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


def test_an_evaluation_of_endless_episodes_ends() -> None:
    model = a2c("lstm", make_vec_env(Counting, n_envs=2))
    with pytest.raises(RuntimeError, match=r"not ended after 50 steps.*TimeLimit"):
        evaluate_episodes(model, make_vec_env(lambda: Counting(10**9), n_envs=2), 2, max_length=50)


def test_an_evaluation_has_a_limit_of_steps(caplog: pytest.LogCaptureFixture) -> None:
    """Of two environments, one ends its episodes and the other does not."""
    model = a2c("lstm", make_vec_env(Counting, n_envs=2))
    env = DummyVecEnv([lambda: Monitor(Counting(4)), lambda: Monitor(Counting(10**9))])
    episodes = evaluate_episodes(model, env, 4, max_steps=50)
    assert [episode["length"] for episode in episodes] == [4, 4, 43]
    assert "only 2 of 4 episodes have ended after 50 steps" in caplog.text


@pytest.mark.parametrize(
    "actions",
    [
        spaces.Discrete(2),
        spaces.Box(-1, 1, (2,)),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
    ],
    ids=str,
)
def test_outputs_that_are_not_finite_stop_the_training(
    make: Any, actions: spaces.Space[Any]
) -> None:
    model = make(
        "lstm", make_vec_env(lambda: Random(spaces.Box(-1, 1, (3,)), actions), n_envs=2), n_steps=3
    )
    model.policy.action_net.bias.data.fill_(float("nan"))
    with pytest.raises(
        TrainingDivergedError, match="policy's outputs became NaN or infinite at step 0"
    ):
        model.learn(100)
    with pytest.raises(ValueError, match="policy's outputs became NaN or infinite"):
        model.predict(np.ones(3, np.float32))


@pytest.mark.parametrize("use_sde", [False, True])
@pytest.mark.parametrize("log_std", [-1e3, 1e3])
def test_a_spread_of_actions_that_vanishes_or_overflows_stops_the_training(
    make: Any, log_std: float, use_sde: bool
) -> None:
    env = make_vec_env(lambda: Random(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))), n_envs=2)
    model = make("lstm", env, use_sde=use_sde)
    model.policy.log_std.data.fill_(log_std)
    with pytest.raises(
        TrainingDivergedError,
        match="standard deviation of the policy's actions became zero or infinite at step 0",
    ):
        model.learn(100)


def test_without_verbose_the_library_is_silent(
    algorithm: Any, make: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Warnings are errors in these tests."""
    model = make("rnn", make_vec_env(Recall, n_envs=2)).learn(100, log_interval=1)
    model.predict(np.ones((2, 3), np.float32))
    model.save(tmp_path / "model")
    model.export(tmp_path / "exported")
    algorithm.load(tmp_path / "model", make_vec_env(Recall, n_envs=3), device="cpu").learn(100)
    algorithm.from_pretrained(tmp_path / "exported", make_vec_env(Recall), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_gradient_that_is_not_finite_leaves_the_parameters_as_they_were(make: Any) -> None:
    model = make("mnm-p", make_vec_env(Recall, n_envs=2), {"popart": False})
    model.policy.value_net.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = model.policy.parameters_to_vector()
    with pytest.raises(TrainingDivergedError, match="gradient norm became nan at step 10"):
        model.learn(100)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


def test_a_policy_without_memory_is_refused(algorithm: Any) -> None:
    with pytest.raises(ValueError, match="needs a recurrent policy"):
        algorithm(ActorCriticPolicy, "CartPole-v1", device="cpu")


def test_dict_observations_are_evaluated(make: Any) -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    model = make("mnm-p", make_vec_env(lambda: Random(space, spaces.Discrete(2)), n_envs=2)).learn(
        20
    )
    returns, lengths = evaluate_policy(model, model.get_env(), 4, return_episode_rewards=True)
    assert lengths == [7] * 4
    assert len(returns) == 4  # type: ignore[arg-type]


def test_checkpoints_and_hyperparameters_are_logged_as_in_stable_baselines3(
    algorithm: Any, make: Any, tmp_path: Path
) -> None:
    class LogHyperparameters(BaseCallback):
        def _on_training_start(self) -> None:
            values = {"gamma": self.model.gamma, "memory": type(self.model.policy.core).__name__}  # type: ignore[attr-defined]
            self.logger.record(
                "hparams",
                HParam(values, {"rollout/ep_rew_mean": 0}),
                exclude=("stdout", "log", "json", "csv"),
            )

        def _on_step(self) -> bool:
            return True

    env = VecNormalize(make_vec_env(Recall, n_envs=2))
    model = make("mnm-p", env, n_steps=6, tensorboard_log=str(tmp_path / "tb"))
    checkpoint = CheckpointCallback(10, str(tmp_path / "checkpoints"), save_vecnormalize=True)
    model.learn(48, callback=[LogHyperparameters(), checkpoint], log_interval=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "rl_model_20_steps.zip",
        "rl_model_40_steps.zip",
        "rl_model_vecnormalize_20_steps.pkl",
        "rl_model_vecnormalize_40_steps.pkl",
    ]
    assert (
        algorithm.load(
            tmp_path / "checkpoints" / "rl_model_40_steps.zip", device="cpu"
        ).num_timesteps
        == 40
    )
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_normalization_is_that_of_the_training_when_it_is_evaluated(tmp_path: Path) -> None:
    """An EvalCallback takes over the statistics of VecNormalize, as with every Stable-Baselines3
    algorithm."""
    env = VecNormalize(make_vec_env(lambda: Counting(4), n_envs=2))
    other = VecNormalize(make_vec_env(lambda: Counting(4)), training=False, norm_reward=False)
    a2c("lstm", env, n_steps=6).learn(
        48, callback=EvalCallback(other, eval_freq=12, n_eval_episodes=2, verbose=0)
    )
    np.testing.assert_allclose(other.obs_rms.mean, env.obs_rms.mean)
