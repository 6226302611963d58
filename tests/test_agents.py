"""An agent is one file of hyperparameters, and all of them arrive where they belong."""

import ast
import sys
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import agents
from agents import AGENTS, Hyperparameters
from experiments.configuration import Run
from experiments.run import build, make_env
from mnm_rl import RecurrentA2C, RecurrentPPO
from mnm_rl.cores.mnm import ControllerName, ReadGateName, VariantName
from mnm_rl.initialization import Init
from mnm_rl.memory import FeedbackInputs

FILES = sorted(Path(agents.__file__).parent.glob("*.py"))
ROOT = Path(__file__).parent.parent
CONFIGURATION = ROOT / "experiments" / "configuration.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_agents_know_the_library_and_nothing_above_them(file: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names <= {
        "agents",
        "mnm_rl",
    }


def test_every_file_is_an_agent() -> None:
    assert {Path(sys.modules[agent.__module__].__file__ or "") for agent in AGENTS.values()} == {
        file for file in FILES if file.stem not in ("__init__", "agent")
    }
    assert list(AGENTS)[:2] == ["mnm-g", "mnm-p"]
    assert all(AGENTS[name].name == name for name in AGENTS)


def test_a_new_agent_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_lstm.py").write_text("""
from dataclasses import dataclass
from typing import ClassVar
from agents.lstm import Lstm

@dataclass(frozen=True, kw_only=True)
class SmallLstm(Lstm):
    name: ClassVar[str] = "small-lstm"
    hidden_size: int = 10
""")
    monkeypatch.setattr(agents, "__path__", [*agents.__path__, str(tmp_path)])
    found = {agent.name: agent for agent in agents._agents()}
    monkeypatch.delitem(sys.modules, "agents.small_lstm")
    assert found.keys() - AGENTS.keys() == {"small-lstm"}
    assert built(found["small-lstm"].defaults()).policy_kwargs["hidden_size"] == 10


@pytest.mark.parametrize("name", AGENTS)
def test_every_hyperparameter_reaches_the_algorithm_or_the_policy(name: str) -> None:
    changes = {"n_steps": 7, "gamma": 0.5, "adam_eps": 1e-3, "core_layers": 3, "hidden_size": 12}
    hyperparameters = AGENTS[name].defaults().changed(**changes)
    model = built(hyperparameters)
    assert model.policy.optimizer.defaults["eps"] == 1e-3
    assert model.batch_size == 7  # two environments, one in each minibatch
    translated = {"algorithm", "reward_scale", "n_minibatches", "anneal_lr", "learning_rate"}
    for argument, value in asdict(hyperparameters.algorithm).items():
        assert argument in translated or getattr(model, argument) == value
    of_policy = asdict(hyperparameters.policy) | hyperparameters.core.arguments()
    del of_policy["adam_eps"]
    assert model.policy_kwargs == model.policy_kwargs | of_policy


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_says_what_it_is_in_a_line(name: str) -> None:
    assert (AGENTS[name].__doc__ or "").splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    "path", [*FILES, CONFIGURATION, ROOT / "train.py", ROOT / "eval.py"], ids=str
)
def test_an_option_is_explained_in_a_line(path: Path) -> None:
    """The command line would show a line that is broken in the source as two."""
    for kind in ast.walk(ast.parse(path.read_text())):
        for field, text in pairwise(kind.body if isinstance(kind, ast.ClassDef) else []):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert "\n" not in ast.unparse(text), ast.unparse(field)


@pytest.mark.parametrize("name", AGENTS)
def test_the_learning_rate_falls_to_zero_over_the_training(name: str) -> None:
    model = built(AGENTS[name].defaults().changed(learning_rate=0.25))
    assert [model.lr_schedule(left) for left in (1, 0.5, 0)] == [0.25, 0.125, 0]
    model = built(AGENTS[name].defaults().changed(learning_rate=0.25, anneal_lr=False))
    assert model.learning_rate == 0.25


def test_class_variables_are_arguments_and_the_horizon_is_the_rollout() -> None:
    for name, rule in (("mnm-g", "g"), ("mnm-p", "p")):
        model = built(AGENTS[name].defaults())
        assert model.policy_kwargs["write_rule"] == rule
        assert model.n_steps == 20


@pytest.mark.parametrize("name", AGENTS)
def test_a2c_has_defaults_of_its_own(name: str) -> None:
    model = built(AGENTS[name].defaults("a2c"))
    assert type(model) is RecurrentA2C
    assert model.learning_rate == AGENTS[name].a2c["learning_rate"]
    assert type(built(AGENTS[name].defaults())) is RecurrentPPO


def built(hyperparameters: Hyperparameters) -> Any:
    run = Run(
        hyperparameters=hyperparameters,
        env="mnm/MazeSmall-v0",
        env_kwargs={"horizon": 20},
        total_timesteps=100,
        n_envs=2,
        seed=0,
    )
    return build(run, make_env(run, 2), "cpu")


@pytest.mark.parametrize("name", AGENTS)
def test_the_defaults_of_the_library_are_those_of_the_agents(name: str) -> None:
    hyperparameters = AGENTS[name].defaults()
    algorithm, core = hyperparameters.algorithm, hyperparameters.core
    given = core.arguments()
    policy_kwargs = {
        key: given[key] for key in ("write_rule", "variant") if given.get(key) is not None
    }
    model = RecurrentPPO(core.policy, "CartPole-v1", policy_kwargs=policy_kwargs, device="cpu")
    assert (model.learning_rate, model.target_kl) == (algorithm.learning_rate, algorithm.target_kl)
    assert model.policy.ortho_init == hyperparameters.policy.ortho_init


def test_the_defaults_with_names_of_sb3_contrib_are_its_own() -> None:
    model = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", device="cpu")
    assert (model.learning_rate, model.target_kl, model.policy.ortho_init) == (3e-4, None, True)


@pytest.mark.parametrize("name", AGENTS)
def test_the_choices_of_an_agent_are_the_librarys(name: str) -> None:
    """They are written out, so that the command line knows them without PyTorch."""
    names = {
        "init": Init,
        "variant": VariantName,
        "controller": ControllerName,
        "read_gate": ReadGateName,
    }
    names |= {"feedback_inputs": FeedbackInputs}
    for field in fields(AGENTS[name]):
        if field.name in names:
            hint = get_type_hints(AGENTS[name])[field.name]
            choices = {
                choice
                for part in (hint, *get_args(hint))
                if get_origin(part) is Literal
                for choice in get_args(part)
            }
            assert choices == set(get_args(names[field.name]))
