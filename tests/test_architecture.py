"""Arrows only run downwards: which parts of the project may know which, read from their imports,
those in functions included."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

TOPS = ("mnm_rl", "envs", "agents", "experiments", "examples", "benchmarks", "studies", "docs")

ALLOWED = {
    "mnm_rl/memory": {"mnm_rl/initialization"},
    "mnm_rl/cores": {"mnm_rl/memory", "mnm_rl/initialization"},
    "mnm_rl/kernels": {"mnm_rl/cores", "mnm_rl/memory"},
    "envs": set(),
    "agents": {"mnm_rl"},
    "experiments": {"agents", "envs", "mnm_rl"},
    "examples": {"mnm_rl", "envs"},
    "benchmarks": {"experiments", "agents", "envs", "mnm_rl", "train"},
    "studies": {"examples", "experiments", "agents", "envs", "mnm_rl"},
    "docs": {"studies", "experiments", "agents", "mnm_rl"},
}
"""What each part may import, beside itself; what is not named here may import anything but what is
above it."""


def modules() -> dict[str, Path]:
    """Every module of the project that is no test, by its dotted name."""
    found = {}
    for top in (*TOPS, "train.py", "eval.py"):
        for path in (ROOT / top).rglob("*.py") if (ROOT / top).is_dir() else [ROOT / top]:
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """The modules of the project that a module imports, wherever in its text."""
    tree = ast.parse(MODULES[name].read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= submodules & MODULES.keys() or {node.module}
    return (found & MODULES.keys()) - {name}


def test_nothing_imports_in_a_circle() -> None:
    graph = {name: imports(name) for name in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("part", ALLOWED)
def test_arrows_only_run_downwards(part: str) -> None:
    prefix = part.replace("/", ".")
    allowed = tuple(other.replace("/", ".") for other in (*ALLOWED[part], part))
    for name in MODULES:
        if f"{name}.".startswith(f"{prefix}."):
            for other in imports(name):
                assert f"{other}.".startswith(tuple(f"{a}." for a in allowed)), (
                    f"{name} imports {other}"
                )


def test_experiments_have_three_floors() -> None:
    """One run, grids of them, and what is shown of both; the command is above them."""

    def floor(name: str) -> int:
        return 2 if "analysis" in name else 1 if "grids" in name else 0

    for name in MODULES:
        if name.startswith("experiments.") and name != "experiments.__main__":
            for other in imports(name):
                if other.startswith("experiments"):
                    assert floor(other) <= floor(name), f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("mnm_rl")])
def test_the_library_knows_no_environment_and_no_experiment(name: str) -> None:
    assert not {other.split(".")[0] for other in imports(name)} & {"envs", "agents", "experiments"}


@pytest.mark.parametrize("library", ["stable_baselines3", "numba"])
def test_memory_and_cores_know_neither_algorithm_nor_kernel(library: str) -> None:
    for name, path in MODULES.items():
        if name.startswith(("mnm_rl.memory", "mnm_rl.cores")):
            assert library not in path.read_text(), name


OF_MAZES = {"experiments/analysis/readout.py", "experiments/earlier.py"}
"""Files that are about mazes: where the goal can be read off, and what version 0.2.0 wrote."""

MENTIONS = (
    r"mnm/\w+-v0( \w+=\w+)*|experiments/\w+\.toml|goal.read-?out\b.*|check_maze.*|read-out finds.*"
)
"""Examples of ids, arguments and files, and the option that is for mazes alone."""


COMMANDS = [name for name in MODULES if name.split(".")[0] in ("experiments", "train", "eval")]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_shows_metrics_knows_no_word_of_mazes(name: str) -> None:
    """The environment declares its metrics."""
    path = MODULES[name]
    if str(path.relative_to(ROOT)) not in OF_MAZES:
        text = re.sub(MENTIONS, "", path.read_text())
        assert not re.findall(r".*(?:goal|maze|\bwall\b).*", text, flags=re.IGNORECASE)
