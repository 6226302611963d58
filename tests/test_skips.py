"""A run of the tests says at its end what it did not test."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SKIPS = """
import pytest

def test_of_a_gpu():
    pytest.skip("needs a GPU")

def test_of_a_page():
    pytest.skip("there is no Chromium")

def test_of_a_library():
    pytest.importorskip("no_such_library")

def test_of_another_page():
    pytest.skip("there is no Chromium")
"""


def last_lines(tests: str, tmp_path: Path) -> str:
    (tmp_path / "test_some.py").write_text(tests)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        tmp_path,
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout


def test_what_did_not_run_is_told_at_the_end(tmp_path: Path) -> None:
    said = last_lines(SKIPS, tmp_path)
    assert "NOT TESTED" in said
    assert "2 tests did not run: there is no Chromium\n" in said
    assert "1 test did not run: could not import 'no_such_library'" in said
    assert "GPU" not in said


def test_a_machine_without_a_gpu_lacks_nothing(tmp_path: Path) -> None:
    assert "NOT TESTED" not in last_lines(SKIPS.split("def test_of_a_page")[0], tmp_path)
