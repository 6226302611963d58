"""Every example runs, in a shortened form, and prints its result."""

import importlib
from pathlib import Path

import pytest

EXAMPLES = sorted(path.stem for path in (Path(__file__).parent.parent / "examples").glob("*.py"))
EXAMPLES.remove("rl_zoo")  # the commands of a package that is not installed here
ARGUMENTS = {"recall": {"updates": 10}}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"examples.{name}")
    module.main(**ARGUMENTS.get(name, {"total_timesteps": 2_000}))
    assert capsys.readouterr().out.strip()


def test_the_example_of_a_memory_alone_fits_into_forty_lines() -> None:
    source = (Path(__file__).parent.parent / "examples" / "recall.py").read_text()
    code = [
        line
        for line in source.split('"""', 2)[2].splitlines()
        if line.strip() and '"""' not in line
    ]
    assert len(code) <= 40
