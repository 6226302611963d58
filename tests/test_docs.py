"""Every Python block, command and link in the documentation works, and the API reference has every
public name."""

import importlib
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from math_core import LatexToMathML

import eval as eval_
import experiments.__main__ as grids
import train
from experiments import babi, sequences
from experiments.command_line import parse
from mnm_rl import RecurrentA2C, RecurrentPPO
from mnm_rl.algorithms.on_policy import RecurrentOnPolicyAlgorithm
from studies import memory

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = RecurrentOnPolicyAlgorithm.learn

    def a_little(self: Any, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        return learn(self, min(total_timesteps, 200), *args, **kwargs | {"progress_bar": False})

    for algorithm in (RecurrentA2C, RecurrentPPO):  # each has or inherits it
        monkeypatch.setattr(algorithm, "learn", a_little)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_commands(page: Path, tmp_path: Path) -> None:
    for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1].split("=")[0] in re.findall(
                r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE
            )
            arguments = [shlex.split(word.removeprefix("ARGS=")) for word in words[2:]]
            program = {"train": ["train.py"], "bench": ["-m", "benchmarks.throughput"]}
            words = ["python", *program[words[1]], *arguments[0]] if arguments else []
        if "torchrun" in words and "train.py" in words:
            words = ["python", *words[words.index("train.py") :]]
        if "mnm-train" in words:
            words = ["python", "train.py", *words[words.index("mnm-train") + 1 :]]
        elif words[:1] == ["mnm-eval"]:
            words = ["python", "eval.py", *words[1:]]
        if words[:2] == ["python", "train.py"] and "$what" not in words:
            if not {"--resume", "--help"} & set(words):
                train.parse_options(words[2:])
        elif words[:2] == ["python", "eval.py"]:
            parse(eval_.Options, words[2:], prog="eval.py")
        elif words[:3] == ["python", "-m", "experiments"]:
            parse(grids.Options, words[3:], prog="python -m experiments")
        elif words[:2] == ["python", "-m"]:
            assert (ROOT / (words[2].replace(".", "/") + ".py")).exists()
            if words[2] == "experiments.sequences" and "--help" not in words:
                sequences.parse_options(words[3:])
            elif words[2] == "experiments.babi":
                babi.parse_options([str(tmp_path), *words[4:]])
            elif words[2] == "studies.memory":
                parse(memory.Options, words[3:], prog="studies.memory")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_formulas_can_be_set(page: Path) -> None:
    convert = LatexToMathML(fancy_error=False).convert_with_local_state
    for formula in blocks(page, "math"):
        convert(formula, displaystyle=True)
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for formula in re.findall(r"\$([^$]+)\$", text):
        assert "\n" not in formula
        convert(formula, displaystyle=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_fit_into_100_columns(page: Path) -> None:
    text = re.sub(r"<!-- table: .*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)
    lines = text.splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_the_reference_has_every_public_name() -> None:
    shown = set()
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for package, pattern in re.findall(
            r"^::: (.+)\.([\w*]+)$", page.read_text(), flags=re.MULTILINE
        ):
            names = importlib.import_module(package).__all__ if "*" in pattern else [pattern]
            shown |= {name for name in names if fnmatch(name, pattern)}
    assert shown >= set(importlib.import_module("mnm_rl").__all__) - {"__version__"}


def test_the_reference_has_the_methods_of_both_algorithms() -> None:
    page = (ROOT / "docs" / "reference" / "algorithms.md").read_text()
    for algorithm in (RecurrentA2C, RecurrentPPO):
        options = page.split(f"::: mnm_rl.{algorithm.__name__}\n")[1].split(":::")[0]
        for method in ("learn", "predict", "save", "load", "export", "from_pretrained"):
            assert re.search(rf"inherited_members: .*\b{method}\b", options), method
            assert callable(getattr(algorithm, method))


def test_nobody_is_told_to_install_this_from_an_index() -> None:
    for page in PAGES:
        for line in re.findall(r"pip install .*", page.read_text()):
            assert not re.search(r"install (--\S+ )*['\"]?mnm[-_]rl(?!\S*\.whl)", line), (
                f"{page.name}: {line}"
            )
