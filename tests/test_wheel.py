"""What a user has who has the wheel and no repository: built from the sources, installed where
nothing of ours was."""

import ast
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

ROOT = Path(__file__).parent.parent
GENERAL = {"envs", "agents", "experiments", "train", "eval"}
"""What the repository has at its top level, under names too general to be installed."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of what the Dockerfile has, so that nothing is left among the
    sources."""
    source = tmp_path_factory.mktemp("source")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            path = ROOT / line.removeprefix("!")
            if path.is_dir():
                shutil.copytree(
                    path, source / path.name, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(path, source)
    run(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        source / "dist",
        source,
        cwd=source,
    )
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands' directory of an environment that has the wheel, and what it depends on from the
    environment of the tests."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory)
    python = directory / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=directory,
    )
    packages = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=directory
        ).strip()
    )
    (packages / "dependencies.pth").write_text(f"{Path(gym.__file__).parents[1]}\n")
    return directory / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The project of a user, which has packages of those general names, too."""
    for name in GENERAL:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    cartpole = (
        'gym.register("Mine-v0", "gymnasium.envs.classic_control:CartPoleEnv", '
        "max_episode_steps=20)"
    )
    (tmp_path / "envs" / "__init__.py").write_text(f"import gymnasium as gym\n{cartpole}\n")
    return tmp_path


def run(*command: Any, cwd: Path) -> str:
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(Path.home())}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_no_general_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sources = {name: archive.read(name).decode() for name in names if name.endswith(".py")}
        (top_level,) = (
            archive.read(name).decode().split() for name in names if name.endswith("/top_level.txt")
        )
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "mnm_rl",
        "mnm_rl_zoo",
        "mnm_rl_zoo.pth",
    }
    assert top_level == ["mnm_rl", "mnm_rl_zoo"]
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {module.split(".")[0] for module in imported} & GENERAL, name


def test_the_wheel_has_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for top in ("mnm_rl", "envs", "agents", "experiments"):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert ("" if top == "mnm_rl" else "mnm_rl_zoo/") + str(
                    path.relative_to(ROOT)
                ) in names


def test_trained_models_are_played_by_their_names(installed: Path, elsewhere: Path) -> None:
    code = """
import gymnasium as gym
import numpy as np
from mnm_rl import RecurrentPPO

model = RecurrentPPO.from_pretrained("mnm/MazeSmall-v0:mnm-p", device="cpu")
observation, _ = gym.make("mnm/MazeSmall-v0").reset(seed=0)
print(model.predict(observation, episode_start=np.array([True]))[0].shape)
"""
    assert run(installed / "python", "-c", code, cwd=elsewhere).strip() == "()"
    args = ["mnm/MazeSmall-v0:mnm-p", "--episodes", "2"]
    assert "mnm/MazeSmall-v0, 2 episodes" in run(installed / "mnm-eval", *args, cwd=elsewhere)


@pytest.mark.parametrize(
    "first",
    [
        "",
        "from importlib.util import find_spec; find_spec('gymnasium');",
        "import mnm_rl_zoo.envs;",
    ],
)
def test_gymnasium_knows_the_environments_without_an_import(
    first: str, installed: Path, elsewhere: Path
) -> None:
    ours = sorted(name for name in gym.registry if name.startswith("mnm/"))
    code = f"""
{first}
import sys
import gymnasium as gym

assert sorted(name for name in gym.registry if name.startswith("mnm/")) == {ours}
for name in {ours}:
    for env in (gym.make(name), gym.make_vec(name, 2)):
        env.reset(seed=0)
        assert type(env.unwrapped).__module__.startswith("mnm_rl_zoo.envs.")
assert not {GENERAL} & set(sys.modules)
import envs
gym.make("Mine-v0")
assert "torch" not in sys.modules
"""
    run(installed / "python", "-c", code, cwd=elsewhere)


def test_an_interpreter_that_does_not_import_gymnasium_imports_nothing_of_ours(
    installed: Path, elsewhere: Path
) -> None:
    code = (
        "import sys; print(sorted(name for name in sys.modules if name.startswith(('mnm', "
        "'numpy', 'gymnasium'))))"
    )
    assert (
        run(installed / "python", "-c", code, cwd=elsewhere).strip()
        == "['mnm_rl_zoo', 'mnm_rl_zoo.plugin']"
    )


def test_gymnasium_can_be_imported_where_the_environments_cannot(
    installed: Path, elsewhere: Path
) -> None:
    (elsewhere / "gymnasium.py").write_text("version = 'of long ago'")
    code = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    import gymnasium
assert gymnasium.version == "of long ago"
assert "the environments of mnm-rl cannot be had" in str(caught[0].message)
"""
    run(installed / "python", "-c", code, cwd=elsewhere)


def test_the_commands_run_beside_packages_of_those_names(installed: Path, elsewhere: Path) -> None:
    assert "  mnm-p  " in run(installed / "mnm-train", "--help", cwd=elsewhere)
    small = [
        "--env",
        "envs:Mine-v0",
        "--total-timesteps",
        "200",
        "--n-envs",
        "2",
        "--n-steps",
        "20",
        "--threads",
        "1",
    ]
    told = run(installed / "mnm-train", "rnn", *small, "--out", "run", cwd=elsewhere)
    assert "mnm-eval run --gif" in told
    assert "usage: mnm-eval " in run(installed / "mnm-eval", "--help", cwd=elsewhere)
    assert "usage: mnm-experiments run " in run(
        installed / "mnm-experiments", "run", "--help", cwd=elsewhere
    )
