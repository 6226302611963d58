"""Action masks: what an environment forbids has probability zero in rollouts, updates and predict,
whatever gives the masks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import NormalizeReward
from numpy.typing import NDArray
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_without_masks
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from mnm_rl import GymnasiumVecEnv, LstmPolicy, RecurrentA2C, RecurrentPPO
from mnm_rl.algorithms.updates import evaluate
from mnm_rl.callbacks import MaskableEvalCallback
from mnm_rl.evaluation import evaluate_episodes, evaluate_policy
from mnm_rl.masks import action_masks, checked, choices
from mnm_rl.wrappers import InfoActionMasks
from tests.policies import roll_out

ACTIONS: dict[str, spaces.Space[Any]] = {
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "MultiBinary": spaces.MultiBinary(3),
}
POLICIES = {
    "mnm-p": ("MnmPolicy", {"hidden_size": 8}),
    "gru, own critic": ("GruPolicy", {"hidden_size": 8, "critic_core": "own"}),
    "MlpLstmPolicy": ("MlpLstmPolicy", {"lstm_hidden_size": 8, "net_arch": [8]}),
}
ALGORITHMS = [RecurrentA2C, partial(RecurrentPPO, batch_size=16, n_epochs=2)]


class Picky(gym.Env[NDArray[np.float32], Any]):
    """Allows other actions at every step, and ends an episode with a reward of -1 where another is
    taken; 1 a step otherwise."""

    def __init__(
        self,
        space: spaces.Space[Any],
        length: int = 7,
        in_info: bool = False,
        in_method: bool = True,
    ) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,))
        self.action_space, self.length, self.in_info = space, length, in_info
        if in_method:
            self.action_masks = lambda: self.mask

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe()

    def _observe(self) -> tuple[Any, dict[str, Any]]:
        rng, parts = self.np_random, []
        for n in choices(self.action_space):
            part = rng.random(n) < 0.5
            part[rng.integers(n)] = True
            parts.append(part)
        self.mask = (
            np.concatenate(parts) if self.t < self.length else np.zeros(sum(map(len, parts)), bool)
        )
        observation = rng.uniform(-1, 1, 3).astype(np.float32)
        return observation, {"action_mask": self.mask} if self.in_info else {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        allowed = is_allowed(self.action_space, action, self.mask)
        self.t += 1
        observation, info = self._observe()
        return observation, 1.0 if allowed else -1.0, not allowed, self.t == self.length, info


def is_allowed(space: spaces.Space[Any], action: Any, mask: NDArray[np.bool_]) -> bool:
    sizes = choices(space)
    return bool(mask[np.cumsum(sizes) - sizes + np.asarray(action).ravel().astype(int)].all())


def vector(
    space: spaces.Space[Any], mode: AutoresetMode, wrap: Callable[[Any], Any] = lambda env: env
) -> VecEnv:
    env = SyncVectorEnv(
        [lambda: Picky(space, in_info=True, in_method=False)] * 3, autoreset_mode=mode
    )
    return GymnasiumVecEnv(wrap(env))


KINDS: dict[str, Callable[[spaces.Space[Any]], VecEnv]] = {
    "DummyVecEnv": lambda space: make_vec_env(lambda: Picky(space), n_envs=3),
    "SubprocVecEnv": lambda space: make_vec_env(
        lambda: Picky(space), n_envs=2, vec_env_cls=SubprocVecEnv
    ),
    "VecNormalize": lambda space: VecNormalize(make_vec_env(lambda: Picky(space), n_envs=3)),
    "from an info": lambda space: DummyVecEnv(
        [lambda: InfoActionMasks(Monitor(Picky(space, in_info=True, in_method=False)))]
    ),
    "Gymnasium, method": lambda space: GymnasiumVecEnv(SyncVectorEnv([lambda: Picky(space)] * 3)),
    "Gymnasium, same step": partial(vector, mode=AutoresetMode.SAME_STEP),
    "Gymnasium, next step": partial(vector, mode=AutoresetMode.NEXT_STEP),
    "Gymnasium, disabled": partial(vector, mode=AutoresetMode.DISABLED),
    "Gymnasium, next step in its own way": partial(
        vector, mode=AutoresetMode.NEXT_STEP, wrap=NormalizeReward
    ),
}


def model_of(algorithm: Any, policy: str, env: Any, **kwargs: Any) -> Any:
    name, policy_kwargs = POLICIES[policy]
    return algorithm(
        name, env, policy_kwargs=policy_kwargs, n_steps=16, seed=0, device="cpu", **kwargs
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=["A2C", "PPO"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("actions", ACTIONS)
def test_what_is_forbidden_is_never_done_in_rollouts_and_changes_no_probability(
    actions: str, policy: str, algorithm: Any
) -> None:
    space = ACTIONS[actions]
    model = model_of(algorithm, policy, KINDS["DummyVecEnv"](space))
    roll_out(model)
    rollout = model.rollout_buffer.sequence()
    taken, masks = rollout.actions.numpy(), rollout.action_masks.numpy()
    assert all(
        is_allowed(space, a, m)
        for a, m in zip(taken.reshape(48, -1), masks.reshape(48, -1), strict=True)
    )
    assert not masks.all()
    with torch.no_grad():
        # the ratio of new to old probability is 1 before the first update
        for piece in ([rollout], *rollout.minibatches(16)):
            for part in piece:
                _, log_prob, entropy, _ = evaluate(model.policy, part)
                torch.testing.assert_close(log_prob, part.log_prob, rtol=1e-4, atol=1e-5)
                assert entropy.isfinite().all()
    before = torch.nn.utils.parameters_to_vector(model.policy.parameters()).clone()
    model.learn(96)
    after = torch.nn.utils.parameters_to_vector(model.policy.parameters())
    assert after.isfinite().all()
    assert (after != before).any()
    # no episode ended by a forbidden action
    assert {info["l"] for info in model.ep_info_buffer} == {7}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_environment_gives_its_masks(kind: str) -> None:
    env = KINDS[kind](spaces.Discrete(5))
    model = model_of(RecurrentA2C, "mnm-p", env).learn(96)
    assert model._masking
    assert {info["l"] for info in model.ep_info_buffer} <= {7, 8}  # with a resetting step
    played = evaluate_episodes(model, env, 6)
    assert {episode["length"] for episode in played} <= {7, 8}
    mean, _ = evaluate_policy(model, env, 6, warn=False)
    assert mean > 0
    env.close()


@pytest.mark.parametrize("actions", ACTIONS)
def test_probabilities_of_what_is_forbidden_are_exactly_zero(actions: str) -> None:
    space = ACTIONS[actions]
    env = KINDS["DummyVecEnv"](space)
    model = model_of(RecurrentPPO, "mnm-p", env)
    obs, state = env.reset(), None
    masks = torch.from_numpy(action_masks(env, space))
    with torch.no_grad():
        tensor, _ = model.policy.obs_to_tensor(obs)
        starts = torch.ones(3, dtype=torch.bool)
        dist, _ = model.policy.get_distribution(
            tensor, model.policy.initial_state(3), starts, action_masks=masks
        )
    parts = dist.distribution if isinstance(dist.distribution, list) else [dist.distribution]
    if actions == "MultiBinary":
        probs = torch.stack([1 - parts[0].probs, parts[0].probs], dim=2).flatten(1)
    else:
        probs = torch.cat([part.probs for part in parts], dim=1)
    assert (probs[~masks] == 0).all()
    for deterministic in (False, True):
        for _ in range(50):
            masks = action_masks(env, space)
            acts, state = model.predict(obs, state, deterministic=deterministic, action_masks=masks)
            assert all(is_allowed(space, a, m) for a, m in zip(acts, masks, strict=True))
            obs, *_ = env.step(acts)
    one, _ = model.predict(obs[0], action_masks=masks[0])  # a single observation and its mask
    assert is_allowed(space, one, masks[0])


def test_masks_and_overridden_methods_act_together() -> None:
    class Own(LstmPolicy):
        def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
            return self.action_dist.proba_distribution(10 * self.action_net(latent_pi))

    env = KINDS["DummyVecEnv"](spaces.Discrete(5))
    model = RecurrentPPO(
        Own, env, n_steps=16, batch_size=16, n_epochs=2, seed=0, device="cpu"
    ).learn(96)
    assert {info["l"] for info in model.ep_info_buffer or ()} == {7}


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=["A2C", "PPO"])
def test_masking_can_be_switched_off(algorithm: Any) -> None:
    model = model_of(algorithm, "mnm-p", KINDS["DummyVecEnv"](spaces.Discrete(5))).learn(
        96, use_masking=False
    )
    assert min(info["l"] for info in model.ep_info_buffer) < 7
    with_masks, _ = evaluate_policy(model, model.env, 20, warn=False)
    without, _ = evaluate_policy(model, model.env, 20, warn=False, use_masking=False)
    assert with_masks == 7 > without


def test_nothing_changes_where_everything_is_allowed() -> None:
    class Allows(Picky):
        def _observe(self) -> tuple[Any, dict[str, Any]]:
            result = super()._observe()
            self.mask = np.ones(5, bool)
            return result

    weights = []
    for use_masking in (True, False):
        env = make_vec_env(lambda: Allows(spaces.Discrete(5)), n_envs=3, seed=0)
        model = model_of(ALGORITHMS[1], "mnm-p", env).learn(96, use_masking=use_masking)
        weights.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()))
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_an_evaluation_callback_heeds_masks() -> None:
    env = Monitor(Picky(spaces.Discrete(5)))
    callback = MaskableEvalCallback(env, eval_freq=16, n_eval_episodes=5, verbose=0)
    model = model_of(RecurrentA2C, "mnm-p", KINDS["DummyVecEnv"](spaces.Discrete(5))).learn(
        32, callback=callback
    )
    assert callback.best_mean_reward == 7
    assert callback.model is model
    without, _ = evaluate_without_masks(model, env, 20)
    assert without < 7


def test_what_is_wrong_with_masks_is_said() -> None:
    space = spaces.Discrete(3)
    model = model_of(RecurrentPPO, "mnm-p", make_vec_env("CartPole-v1"))
    with pytest.raises(ValueError, match="these have none"):
        model.learn(16, use_masking=True)
    with pytest.raises(ValueError, match="these have none"):
        evaluate_policy(model, model.env, 1, use_masking=True)
    with pytest.raises(
        ValueError, match=r"environment 1 allows no action: its action mask is \[0, 0, 0\]"
    ):
        checked([[1, 0, 0], [0, 0, 0]], space, 2)
    with pytest.raises(ValueError, match="environment 0 allows no action in part 1"):
        checked([1, 1, 1, 0, 0], spaces.MultiDiscrete([3, 2]), 1)
    with pytest.raises(ValueError, match="environment 1 must hold 3 numbers"):
        checked([[1, 0, 0], [1, 0]], space, 2)
    with pytest.raises(ValueError, match="for each of the 2 environments, got 1"):
        checked([1, 1, 0], space, 2)
    with pytest.raises(ValueError, match="not for Box"):
        choices(spaces.Box(0, 1, (2,)))

    class Nothing(Picky):
        def _observe(self) -> tuple[Any, dict[str, Any]]:
            result = super()._observe()
            self.mask = np.full(5, self.t < 3)
            return result

    model = model_of(
        RecurrentA2C, "mnm-p", make_vec_env(lambda: Nothing(spaces.Discrete(5)), n_envs=2)
    )
    with pytest.raises(ValueError, match="environment 0 allows no action") as raised:
        model.learn(16)
    assert "at step 6" in str(raised.value.__notes__)


def test_a_masked_maze_is_learned_in_without_walking_into_walls() -> None:
    single = gym.make("mnm/MazeSmall-v0", mask_walls=True, wall_penalty=1.0)
    for env in (
        single,
        gym.make_vec("mnm/MazeSmall-v0", num_envs=4, mask_walls=True, wall_penalty=1.0),
    ):
        model = model_of(RecurrentA2C, "mnm-p", env).learn(800)
        played = evaluate_episodes(model, model.get_env(), 4)  # type: ignore[arg-type]
        # no penalty was paid
        assert all(episode["return"] == 10 * episode["goals"] for episode in played)


FORMS: dict[str, Callable[[NDArray[np.bool_]], Any]] = {
    "bool": lambda masks: masks,
    "integers": lambda masks: masks.astype(np.int8),
    "floats": lambda masks: masks.astype(float),
    "objects": lambda masks: masks.astype(object),
    "lists": lambda masks: masks.tolist(),
    "a tuple of arrays": lambda masks: tuple(masks),
    "a tensor": torch.from_numpy,
    "tensors with gradient": lambda masks: [
        torch.from_numpy(mask).float().requires_grad_() for mask in masks
    ],
}


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_masks_come_in_any_form_and_are_copied(form: str, actions: str) -> None:
    space = ACTIONS[actions]
    sizes = choices(space)
    for n in (1, 2, 4):
        masks = np.random.default_rng(n).random((n, sizes.sum())) < 0.3
        masks[:, np.cumsum(sizes) - 1] = True
        wanted, parts = masks.copy(), np.cumsum(sizes)[:-1]
        result = checked(FORMS[form](masks), space, n)
        by_part = [
            tuple(FORMS[form](part[np.newaxis])[0] for part in np.split(mask, parts))
            for mask in masks
        ]
        in_parts = checked(by_part, space, n)
        alone = checked(FORMS[form](masks)[0], space, 1)
        masks[:] = False
        for read in (result, in_parts):
            assert read.dtype == bool
            np.testing.assert_array_equal(read, wanted)
        np.testing.assert_array_equal(alone, wanted[:1])


@pytest.mark.parametrize(
    "wrong",
    [
        [1, np.nan, 0],
        [0, -np.inf, -np.inf],
        [0.5, 1, 1],
        [2, 0, 0],
        ["True", "False", "1"],
        [1, None, 1],
    ],
)
def test_what_is_neither_true_nor_false_is_no_mask(wrong: list[Any]) -> None:
    with pytest.raises(ValueError, match="environment 1 must hold 1 or 0, true or false"):
        checked([[1, 1, 1], wrong], spaces.Discrete(3), 2)


@pytest.mark.parametrize(
    "wrong",
    [None, True, np.array(True), {"a": 1}, [None], "mask", [[None, None]], np.ones((2, 2)), []],
)
def test_what_is_no_mask_is_refused_in_words(wrong: Any) -> None:
    with pytest.raises(ValueError, match="action mask"):
        checked(wrong, spaces.Discrete(3), 1)


def test_a_mask_in_an_info_comes_in_any_form() -> None:
    space = spaces.MultiDiscrete([3, 2])
    env = InfoActionMasks(Picky(space, in_info=True, in_method=False))
    env.reset(seed=0)
    mask = env._info["action_mask"]
    for given in (
        mask,
        mask.astype(np.int8),
        (mask[:3], mask[3:]),
        [mask[:3].tolist(), mask[3:].tolist()],
    ):
        env._info = {"action_mask": given}
        np.testing.assert_array_equal(env.action_masks(), mask)
    for nothing in ({}, {"action_mask": None}):
        env._info = nothing
        assert env.action_masks().tolist() == [True] * 5
    env._info = {"action_mask": np.full(5, np.nan)}
    with pytest.raises(ValueError, match="must hold 1 or 0"):
        env.action_masks()


class Unmasked(Picky):
    """Says nothing of what it allows."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(5), in_method=False)


@pytest.mark.parametrize("kind", [DummyVecEnv, SyncVectorEnv])
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=["A2C", "PPO"])
def test_environments_have_masks_all_or_none_and_by_a_method(kind: Any, algorithm: Any) -> None:
    mixed = model_of(algorithm, "mnm-p", kind([lambda: Picky(spaces.Discrete(5)), Unmasked]))
    for use_masking in (None, True):
        with pytest.raises(
            ValueError, match="environment 1 has no method action_masks, and others have one"
        ):
            mixed.learn(16, use_masking=use_masking)
    assert not mixed.learn(16, use_masking=False)._masking

    class Attribute(Unmasked):
        action_masks = np.ones(5, bool)

    no_method = model_of(algorithm, "mnm-p", kind([Attribute]))
    with pytest.raises(
        ValueError,
        match=r"action_masks of environment 0 must be a method .*, and is a ndarray",
    ):
        no_method.learn(16)


@pytest.mark.parametrize("answer", ["raises", "gives None"])
def test_vec_envs_that_cannot_tell_have_no_masks(answer: str) -> None:
    class Own(DummyVecEnv):
        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            if answer == "raises" and attr_name != "render_mode":
                raise NotImplementedError
            return [None] * self.num_envs

        def env_method(self, *args: Any, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

    model = model_of(RecurrentA2C, "mnm-p", Own([lambda: Monitor(Unmasked())])).learn(16)
    assert not model._masking
    assert len(evaluate_episodes(model, model.env, 1)) == 1


class Batched(VectorEnv[Any, Any, Any]):
    """Many environments in one, which keep their masks in one array; steps that did what is
    forbidden are counted."""

    def __init__(self, n: int, in_reset: bool = True, in_step: bool = True) -> None:
        self.num_envs, self.in_reset, self.in_step = n, in_reset, in_step
        self.single_observation_space, self.single_action_space = (
            spaces.Box(-1, 1, (3,)),
            spaces.Discrete(5),
        )
        self.observation_space, self.action_space = (
            spaces.Box(-1, 1, (n, 3)),
            spaces.MultiDiscrete([5] * n),
        )
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.masks, self.forbidden, self.rng = np.zeros((n, 5), bool), 0, np.random.default_rng(0)

    def _now(self, given: bool) -> tuple[Any, dict[str, Any]]:
        self.masks[:] = False
        self.masks[np.arange(self.num_envs), self.rng.integers(5, size=self.num_envs)] = True
        return np.zeros((self.num_envs, 3), np.float32), {
            "action_mask": self.masks
        } if given else {}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return self._now(self.in_reset)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.forbidden += int((~self.masks[np.arange(self.num_envs), actions]).sum())
        self.t += 1
        observations, info = self._now(self.in_step)
        return (
            observations,
            np.zeros(self.num_envs),
            np.full(self.num_envs, self.t == 5),
            np.zeros(self.num_envs, bool),
            info,
        )


class Wrapped(VectorWrapper[Any, Any, Any, Any, Any]):
    def action_masks(self) -> Any:
        return self.env.unwrapped.masks  # type: ignore[attr-defined]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("by", ["info", "its method", "the method of a wrapper"])
def test_a_vector_environment_gives_masks_of_all_at_once(by: str, n: int) -> None:
    base = Batched(n, *[by == "info"] * 2)
    if by == "its method":
        base.action_masks = lambda: base.masks  # type: ignore[attr-defined]
    model = model_of(
        RecurrentA2C, "mnm-p", Wrapped(base) if by == "the method of a wrapper" else base
    ).learn(32 * n)
    assert model._masking
    assert base.forbidden == 0
    stored = model.rollout_buffer.sequence().action_masks
    assert (stored.sum(dim=-1) == 1).all()  # as they were, not as the environment's array is now
    assert stored.any(dim=0).sum() > n


def test_masks_of_steps_alone_are_not_heeded_with_a_warning() -> None:
    model = model_of(RecurrentA2C, "mnm-p", Batched(3, in_reset=False))
    with pytest.warns(UserWarning, match=r"gives infos\['action_mask'\] in step and not in reset"):
        model.learn(48)
    # which is allowed
    model = model_of(RecurrentA2C, "mnm-p", env := Batched(3, in_step=False)).learn(96)
    assert model._masking
    assert env.forbidden > 0


@pytest.mark.parametrize("method", ["forward", "evaluate_actions", "get_distribution", "_predict"])
def test_a_method_that_knows_of_no_masks_is_named(method: str) -> None:
    class Own(LstmPolicy):
        pass

    def ours(self: Any, obs: Any, *args: Any) -> Any:
        return getattr(super(Own, self), method)(obs, *args)

    ours.__qualname__ = f"Own.{method}"
    setattr(Own, method, ours)
    model = RecurrentPPO(
        Own, Picky(spaces.Discrete(5)), n_steps=16, batch_size=16, n_epochs=1, device="cpu"
    )
    predict = partial(model.predict, np.zeros(3, np.float32), action_masks=np.ones(5, bool))
    act: Any = predict if method == "_predict" else partial(model.learn, 16)
    with pytest.raises(TypeError, match=rf"Own.{method} must take the argument action_masks=None"):
        act()
    assert not model.learn(16, use_masking=False)._masking


def test_the_memory_does_not_depend_on_masks() -> None:
    env = KINDS["DummyVecEnv"](spaces.Discrete(5))
    rng, (masked, free) = np.random.default_rng(0), (None, None)
    model = model_of(RecurrentPPO, "mnm-p", env)
    for _ in range(20):
        observations = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        _, masked = model.predict(
            observations, masked, action_masks=np.eye(5, dtype=bool)[rng.integers(5, size=3)]
        )
        _, free = model.predict(observations, free)
    assert masked is not None
    assert free is not None
    for one, other in zip(masked, free, strict=True):
        np.testing.assert_array_equal(one, other)


def test_to_insist_on_masks_needs_a_model_that_takes_them() -> None:
    with pytest.raises(ValueError, match="a model whose predict takes action_masks, not a A2C"):
        evaluate_policy(
            A2C("MlpPolicy", Unmasked()), Picky(spaces.Discrete(5)), 1, use_masking=True
        )
