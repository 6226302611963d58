"""Vector environments in every autoreset mode and every wrapper give under Stable-Baselines3 what
Gymnasium's own loop gives."""

from collections.abc import Callable
from functools import partial
from itertools import count, product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import (
    AsyncVectorEnv,
    AutoresetMode,
    SyncVectorEnv,
    VectorEnv,
    VectorRewardWrapper,
    VectorWrapper,
)
from gymnasium.wrappers import vector as wrappers
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from mnm_rl import GymnasiumVecEnv, RecurrentA2C, RecurrentPPO
from mnm_rl.gymnasium_vector import arrays
from mnm_rl.wrappers import vector as own_wrappers
from tests.counting import Counting, CountingVector
from tests.policies import roll_out, small

MODES = list(AutoresetMode)
NEXT_STEP, SAME_STEP, DISABLED = MODES
LENGTHS = [3, 5, 4]
STEPS = 25

Env = VectorEnv[Any, Any, Any]


class Walk(gym.Env[Any, Any]):
    """Observes (episode, step, sum of the actions), as a vector, a picture or a dict; rewards the
    sum."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, length: int, truncates: bool, form: str = "vector") -> None:
        self.length, self.truncates, self.form, self.episode = length, truncates, form, 0
        self.action_space = spaces.Box(-1, 1, (1,))
        self.observation_space = {
            "vector": spaces.Box(-100, 100, (3,)),
            "picture": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "dict": spaces.Dict(
                {"a": spaces.Box(-100, 100, (3,)), "b": spaces.Box(-100, 100, (1,))}
            ),
        }[form]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t, self.x = self.episode + 1, 0, 0.0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t, self.x = self.t + 1, self.x + float(action[0])
        over = self.t == self.length
        return (
            self._observation(),
            self.x + 1,
            over and not self.truncates,
            over and self.truncates,
            {},
        )

    def render(self) -> Any:
        return np.full((16, 16, 3), self.t, np.uint8)

    def _observation(self) -> Any:
        seen = np.array([self.episode, self.t, self.x], np.float32)
        if self.form == "picture":
            return np.full((4, 4, 3), np.abs(seen * 10), np.uint8)
        return {"a": seen, "b": seen[:1]} if self.form == "dict" else seen


class Averaging(VectorWrapper[Any, Any, Any, Any, Any]):
    """A user's own: subtracts the mean of all observations that have passed, those of resets
    included."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.sum, self.n = np.zeros(3), 0

    def _less_mean(self, observations: Any) -> Any:
        self.sum, self.n = self.sum + observations.mean(axis=0), self.n + 1
        return (observations - self.sum / self.n).astype(np.float32)

    def reset(self, **kwargs: Any) -> Any:
        observations, infos = self.env.reset(**kwargs)
        return self._less_mean(observations), infos

    def step(self, actions: Any) -> Any:
        observations, *rest = self.env.step(actions)
        return self._less_mean(observations), *rest


class Fading(VectorRewardWrapper[Any, Any, Any]):
    """A user's own: rewards fade with the calls of ``rewards``."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.calls = 0

    def rewards(self, rewards: Any) -> Any:
        self.calls += 1
        return rewards / self.calls


class Slippery(wrappers.ClipAction):
    """A user's own, made from one of Gymnasium's: an action is averaged with the one before, of
    whatever episode."""

    before: Any = 0.0

    def actions(self, actions: Any) -> Any:
        self.before, actions = actions.copy(), (actions + self.before) / 2
        return super().actions(actions)


def patched(env: Env) -> Env:
    """A method put over another, as in a notebook."""
    step, calls = env.step, count(1)
    env.step = lambda actions: (lambda o, r, *rest: (o + next(calls), r, *rest))(*step(actions))  # type: ignore[method-assign]
    return env


def numbered(values: Any, calls: Any) -> Any:
    return values + next(calls)


WRAPPERS: dict[str, tuple[str, Callable[[Env], Env]]] = {
    "none": ("vector", lambda env: env),
    "ArrayConversion": ("vector", lambda env: wrappers.ArrayConversion(env, np, torch)),
    "ClipAction": ("vector", wrappers.ClipAction),
    "ClipReward": ("vector", partial(wrappers.ClipReward, max_reward=1.2)),
    "DictInfoToList": ("vector", wrappers.DictInfoToList),
    "DtypeObservation": ("picture", partial(wrappers.DtypeObservation, dtype=np.uint16)),
    "FilterObservation": ("dict", partial(wrappers.FilterObservation, filter_keys=["b"])),
    "FlattenObservation": ("dict", wrappers.FlattenObservation),
    "GrayscaleObservation": ("picture", wrappers.GrayscaleObservation),
    "NormalizeObservation": ("vector", wrappers.NormalizeObservation),
    "NormalizeReward": ("vector", wrappers.NormalizeReward),
    "NumpyToTorch": ("vector", lambda env: wrappers.NumpyToTorch(env)),
    "RecordEpisodeStatistics": ("vector", wrappers.RecordEpisodeStatistics),
    "RescaleAction": (
        "vector",
        partial(
            wrappers.RescaleAction,
            min_action=np.array([-2], np.float32),
            max_action=np.array([2], np.float32),
        ),
    ),
    "RescaleObservation": (
        "picture",
        partial(
            wrappers.RescaleObservation,
            min_obs=np.zeros((4, 4, 3), np.uint8),
            max_obs=np.full((4, 4, 3), 9, np.uint8),
        ),
    ),
    "ReshapeObservation": ("vector", partial(wrappers.ReshapeObservation, shape=(3, 1))),
    "ResizeObservation": ("picture", partial(wrappers.ResizeObservation, shape=(2, 2))),
    "TransformAction": (
        "vector",
        lambda env: wrappers.TransformAction(env, partial(numbered, calls=count(0, 0.01))),
    ),
    "TransformObservation": (
        "vector",
        lambda env: wrappers.TransformObservation(env, partial(numbered, calls=count())),
    ),
    "TransformReward": (
        "vector",
        lambda env: wrappers.TransformReward(env, partial(numbered, calls=count())),
    ),
    "VectorizeTransformAction": (
        "vector",
        lambda env: wrappers.VectorizeTransformAction(
            env,
            gym.wrappers.TransformAction,
            func=partial(numbered, calls=count(0, 0.01)),
            action_space=None,
        ),
    ),
    "VectorizeTransformObservation": (
        "vector",
        lambda env: wrappers.VectorizeTransformObservation(
            env,
            gym.wrappers.TransformObservation,
            func=partial(numbered, calls=count()),
            observation_space=None,
        ),
    ),
    "VectorizeTransformReward": (
        "vector",
        lambda env: wrappers.VectorizeTransformReward(
            env, gym.wrappers.TransformReward, func=partial(numbered, calls=count())
        ),
    ),
    "MetaObservation": ("vector", own_wrappers.MetaObservation),
    "one's own step and reset": ("vector", Averaging),
    "one's own rewards": ("vector", Fading),
    "one's own actions, in a class of Gymnasium's": ("vector", Slippery),
    "one's own function for step": ("vector", patched),
    "statistics over normalized rewards": (
        "vector",
        lambda env: wrappers.RecordEpisodeStatistics(wrappers.NormalizeReward(env)),
    ),
    "normalized rewards over statistics": (
        "vector",
        lambda env: wrappers.NormalizeReward(wrappers.RecordEpisodeStatistics(env)),
    ),
}
IN_PICTURES = {"HumanRendering", "RecordVideo"}
"""What shows the environments changes nothing that they give, and needs a screen or a video
encoder."""
OF_JAX = {"JaxToNumpy", "JaxToTorch"}


def made(kind: str, mode: AutoresetMode, truncates: bool, form: str = "vector") -> Env:
    fns = [partial(Walk, length, truncates, form) for length in LENGTHS]
    if kind == "sync":
        return SyncVectorEnv(fns, autoreset_mode=mode)
    return AsyncVectorEnv(fns, autoreset_mode=mode, shared_memory=kind == "async")


def actions_of(env: Any) -> Any:
    """The same actions in every step, so that it does not matter in which step of all environments
    an environment takes them."""
    space = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
    if isinstance(space, spaces.Discrete):
        return np.arange(env.num_envs) % space.n
    return np.linspace(-0.9, 1.9, env.num_envs, dtype=np.float32).reshape(-1, 1)


def at(values: Any, i: int) -> Any:
    return (
        {key: at(value, i) for key, value in values.items()}
        if isinstance(values, dict)
        else values[i]
    )


def in_gymnasiums_loop(env: Env, mode: AutoresetMode, steps: int) -> list[list[Any]]:
    """What each environment goes through: first observations of episodes, and (reward, observation,
    terminated, truncated)."""
    actions = actions_of(env)
    given, _ = env.reset(seed=0)
    tensors, observations = isinstance(given, torch.Tensor), arrays(given)
    histories: list[list[Any]] = [[at(observations, i)] for i in range(env.num_envs)]
    over = np.zeros(env.num_envs, bool)
    for _ in range(steps):
        observations, rewards, terminated, truncated, infos = env.step(
            torch.as_tensor(actions) if tensors else actions.copy()
        )
        observations, rewards, terminated, truncated = map(
            arrays, (observations, rewards, terminated, truncated)
        )
        done = terminated | truncated
        final: dict[int, Any] = {}
        if mode is SAME_STEP and done.any():
            per_env = (
                infos if isinstance(infos, list) else [{"final_obs": o} for o in infos["final_obs"]]
            )
            final = {i: arrays(per_env[i]["final_obs"]) for i in np.flatnonzero(done)}
        for i in np.flatnonzero(done) if mode is DISABLED else ():
            final[i] = at(observations, i)
        if mode is DISABLED and done.any():
            observations = arrays(
                env.reset(
                    options={"reset_mask": torch.as_tensor(done) if tensors else done.copy()}
                )[0]
            )
        for i, history in enumerate(histories):
            if mode is NEXT_STEP and over[i]:
                history.append(at(observations, i))
            else:
                history.append(
                    (
                        np.float32(rewards[i]),
                        final.get(i, at(observations, i)),
                        terminated[i],
                        truncated[i],
                    )
                )
            if mode is not NEXT_STEP and done[i]:
                history.append(at(observations, i))
        over = done
    return histories


def accepted(name: str, mode: AutoresetMode) -> bool:
    """Whether Gymnasium itself gets over the end of an episode with this wrapper in this mode."""
    form, wrap = WRAPPERS[name]
    try:
        in_gymnasiums_loop(wrap(made("sync", mode, False, form)), mode, 5)
    except (ValueError, BufferError, ImportError, DependencyNotInstalled):
        return False
    return True


def in_ours(env: Env, steps: int) -> tuple[list[list[Any]], int]:
    """The same under Stable-Baselines3, and the number of steps in which an environment only
    reset."""
    ours, resets = GymnasiumVecEnv(env), 0
    actions = actions_of(ours)
    ours.seed(0)
    observations: Any = ours.reset()
    histories: list[list[Any]] = [[at(observations, i)] for i in range(ours.num_envs)]
    for _ in range(steps):
        observations, rewards, dones, infos = ours.step(actions)
        for i, (history, info) in enumerate(zip(histories, infos, strict=True)):
            cut = info.get("TimeLimit.truncated", False)
            if info.get("reset_step"):
                resets += 1
                assert dones[i]
                assert rewards[i] == 0
                np.testing.assert_equal(info["terminal_observation"], history[-1][1])
                assert cut == history[-1][3]
            elif info.get("reset_follows"):
                assert not dones[i]
                history.append((rewards[i], at(observations, i), not cut, cut))
            else:
                last = info["terminal_observation"] if dones[i] else at(observations, i)
                history.append((rewards[i], last, dones[i] and not cut, cut))
            if dones[i]:
                history.append(at(observations, i))
    return histories, resets


def assert_alike(ours: list[list[Any]], theirs: list[list[Any]]) -> None:
    """Those that waste no step get further."""
    for one, other in zip(ours, theirs, strict=True):
        n = min(len(one), len(other))
        assert n > STEPS - STEPS // 3
        np.testing.assert_equal(one[:n], other[:n])


def layers(env: Any) -> Any:
    while isinstance(env, VectorWrapper):
        yield env
        env = env.env


AVAILABLE = {name for name in WRAPPERS if any(accepted(name, mode) for mode in MODES)}
STATISTICS = ("obs_rms", "return_rms")


@pytest.mark.parametrize("truncates", [False, True])
@pytest.mark.parametrize(
    ("name", "mode"), [case for case in product(WRAPPERS, MODES) if accepted(*case)]
)
def test_every_wrapper_in_every_mode_is_as_in_gymnasiums_own_loop(
    name: str, mode: AutoresetMode, truncates: bool
) -> None:
    form, wrap = WRAPPERS[name]
    ours, theirs = (wrap(made("sync", mode, truncates, form)) for _ in range(2))
    assert_alike(in_ours(ours, STEPS)[0], in_gymnasiums_loop(theirs, mode, STEPS))
    for one, other in zip(layers(ours), layers(theirs), strict=True):
        for what in STATISTICS:
            if hasattr(one, what):
                np.testing.assert_equal(vars(getattr(one, what)), vars(getattr(other, what)))


def test_every_wrapper_is_tested() -> None:
    assert set(WRAPPERS) | IN_PICTURES | OF_JAX >= set(wrappers.__all__)
    # they need more packages
    assert WRAPPERS.keys() - AVAILABLE <= {"ArrayConversion", "NumpyToTorch", "ResizeObservation"}


@pytest.mark.parametrize("name", ["none", "NormalizeReward", "one's own step and reset"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["async", "async without shared memory"])
def test_processes_are_as_in_gymnasiums_own_loop(kind: str, mode: AutoresetMode, name: str) -> None:
    ours, theirs = (WRAPPERS[name][1](made(kind, mode, True)) for _ in range(2))
    assert_alike(in_ours(ours, STEPS)[0], in_gymnasiums_loop(theirs, mode, STEPS))
    for env in (ours, theirs):
        env.close()


@pytest.mark.parametrize(
    "wrap", [lambda env: env, wrappers.NormalizeReward, wrappers.RecordEpisodeStatistics, Fading]
)
@pytest.mark.parametrize(
    "make",
    [
        partial(gym.make_vec, "CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point"),
        partial(gym.make_vec, "mnm/MazeSmall-v0", num_envs=3, horizon=5),
        partial(gym.make_vec, "mnm/RepeatPrevious-v0", num_envs=3),
    ],
)
def test_native_environments_are_as_in_gymnasiums_own_loop(make: Any, wrap: Any) -> None:
    ours, theirs = (wrap(make()) for _ in range(2))
    assert_alike(
        in_ours(ours, STEPS)[0],
        in_gymnasiums_loop(theirs, theirs.metadata["autoreset_mode"], STEPS),
    )


@pytest.mark.parametrize(
    ("name", "unseen"),
    [
        ("none", True),
        ("MetaObservation", True),
        ("RecordEpisodeStatistics", True),
        ("ClipAction", True),
        ("FlattenObservation", True),
        ("NormalizeReward", False),
        ("one's own actions, in a class of Gymnasium's", False),
        ("one's own function for step", False),
    ],
)
def test_no_step_is_lost_where_no_wrapper_would_notice(name: str, unseen: bool) -> None:
    form, wrap = WRAPPERS[name]
    _, resets = in_ours(wrap(made("sync", NEXT_STEP, False, form)), STEPS)
    assert (resets == 0) == unseen


def test_a_step_of_ones_own_beneath_all_wrappers_is_seen_as_well() -> None:
    class Own(SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            return super().step(actions)

    assert in_ours(Own([partial(Walk, 3, False)]), STEPS)[1] > 0


class Unnamed(CountingVector):
    """Resets in the same step, and does not say so."""

    metadata: dict[str, Any] = {}  # noqa: RUF012

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, rewards, terminations, truncations, infos = super().step(actions)
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(self._over):
            final_obs[i], obs[i] = obs[i].copy(), self.envs[i].reset()[0]
        infos = {"final_obs": final_obs, "_final_obs": self._over} if self._over.any() else {}
        self._over = np.zeros(self.num_envs, bool)
        return obs, rewards, terminations, truncations, infos


@pytest.mark.parametrize(
    "adapt", [GymnasiumVecEnv, own_wrappers.MetaObservation, partial(RecurrentA2C, "LstmPolicy")]
)
def test_an_environment_that_does_not_name_its_mode_is_refused_with_the_line_that_is_missing(
    adapt: Any,
) -> None:
    env = Unnamed([2, 3])
    for metadata in ({}, {"render_fps": 3}, {"autoreset_mode": None}):
        env.metadata = metadata
        for layer in (env, VectorWrapper(env)):
            with pytest.raises(ValueError, match="autoreset_mode") as refusal:
                adapt(layer)
            assert "AutoresetMode.SAME_STEP" in str(refusal.value)
    exec(
        next(
            line for line in str(refusal.value).splitlines() if line.startswith("    env.metadata")
        ).strip()
    )
    adapt(env)


@pytest.mark.parametrize("mode", ["SameStep", "SAME_STEP", "next step", 1, True])
def test_a_mode_that_is_not_gymnasiums_is_refused(mode: Any) -> None:
    env = Unnamed([2, 3])
    env.metadata = {"autoreset_mode": mode}
    with pytest.raises(ValueError, match=r"must be a gymnasium\.vector\.AutoresetMode, got"):
        GymnasiumVecEnv(env)


def test_the_mode_is_found_below_a_wrapper_with_metadata_of_its_own() -> None:
    class Described(VectorWrapper[Any, Any, Any, Any, Any]):
        metadata = {"author": "me"}  # type: ignore[assignment]  # noqa: RUF012

    for mode in MODES:
        ours, theirs = (wrap(made("sync", mode, False)) for wrap in (Described, VectorWrapper))
        assert_alike(in_ours(ours, STEPS)[0], in_gymnasiums_loop(theirs, mode, STEPS))


def test_environments_may_share_their_metadata() -> None:
    """As all of a class did before Gymnasium 1.2: what the last one wrote there is not true of the
    others."""
    first, last = made("sync", SAME_STEP, False), made("sync", NEXT_STEP, False)
    first.metadata = last.metadata
    assert_alike(
        in_ours(first, STEPS)[0],
        in_gymnasiums_loop(made("sync", SAME_STEP, False), SAME_STEP, STEPS),
    )


@pytest.mark.parametrize("truncates", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
def test_a_rollout_with_steps_that_only_reset_is_the_rollout_without_them(
    algorithm: Any, normalized: bool, truncates: bool
) -> None:
    def collected(env: Env) -> Any:
        vec_env = GymnasiumVecEnv(env)
        model = small(
            algorithm,
            "mnm-p",
            VecNormalize(vec_env, training=False) if normalized else vec_env,
            n_steps=17,
        )
        roll_out(model)
        return model.rollout_buffer.sequence()

    whole = collected(SyncVectorEnv([partial(Counting, length, truncates) for length in LENGTHS]))
    other = collected(CountingVector(LENGTHS, truncates))
    assert whole.learned is None
    for i, length in enumerate(LENGTHS):
        learned = other.learned[:, i]
        assert (~learned).sum() == 17 // (length + 1)
        episodes = 17 // (length + 1) * length  # those that are over
        for name in ("values", "advantages", "returns", "observations"):
            torch.testing.assert_close(
                getattr(other, name)[:, i][learned][:episodes], getattr(whole, name)[:episodes, i]
            )


@pytest.mark.parametrize("truncates", [False, True])
def test_the_last_step_of_a_rollout_may_end_an_episode_whose_reset_follows(truncates: bool) -> None:
    def collected(env: Env) -> Any:
        model = small(RecurrentA2C, "lstm", env, n_steps=3, gamma=0.9)
        roll_out(model)
        return model.rollout_buffer.sequence()

    whole = collected(SyncVectorEnv([partial(Counting, 3, truncates)] * 2))
    other = collected(CountingVector([3, 3], truncates))
    assert other.learned is None
    torch.testing.assert_close(other.returns, whole.returns)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
def test_nothing_is_learned_from_a_step_that_only_resets(algorithm: Any) -> None:
    learned = []
    for change in (0, 100):
        model = small(algorithm, "mnm-p", CountingVector(LENGTHS), n_steps=10)
        roll_out(model)
        buffer = model.rollout_buffer
        resets = buffer._resets
        assert resets.any()
        buffer.actions[resets] = change > 0
        for numbers in (buffer.advantages, buffer.returns, buffer.log_probs):
            numbers[resets] += change
        set_random_seed(0)
        model.train()
        learned.append(model.policy.parameters_to_vector())
    np.testing.assert_array_equal(*learned)


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [(RecurrentPPO, {"batch_size": 1, "n_steps": 3}), (RecurrentA2C, {"n_steps": 1})],
)
def test_an_update_may_find_nothing_but_a_reset(algorithm: Any, arguments: Any) -> None:
    small(algorithm, "lstm", CountingVector([1]), **arguments).learn(12)
