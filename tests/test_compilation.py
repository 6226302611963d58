"""Compiled kernels: kept where they can be, found again, done without where they cannot, and
announced."""

import os
import resource
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from mnm_rl import RecurrentA2C
from mnm_rl.cores import implementations
from mnm_rl.kernels import announcement, cache, simd
from tests.policies import small

PACKAGE = Path(simd.__file__).parent.parent
NOWHERE = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": "/dev/null"}


def doubled(x: Any) -> None:
    for i in range(x.shape[0]):
        x[i] *= 2


def run(function: Any = doubled) -> tuple[int, int]:
    """Compile and run a kernel as a new process would; returns how many versions of it were
    compiled, and how many found."""
    compiled = simd.kernel(function)
    simd.kernels.remove(compiled)
    x = np.ones(3)
    compiled(x)
    assert (x == 2).all()
    return sum(compiled.stats.cache_misses.values()), sum(compiled.stats.cache_hits.values())


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Two directories for kernels, of which neither exists yet."""
    found = [tmp_path / "first" / "deep", tmp_path / "second"]
    monkeypatch.setattr(cache, "directories", lambda: found)
    monkeypatch.setattr(implementations, "_logged", set())
    return found


def test_a_kernel_is_compiled_once(directories: list[Path]) -> None:
    assert run() == (1, 0)
    assert run() == (0, 1)
    assert not directories[1].exists()


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:40], lambda data: data[:-1], lambda data: data[::-1]],
)
def test_a_damaged_file_is_as_a_missing_one(directories: list[Path], damage: Any) -> None:
    run()
    (path,) = directories[0].iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert run() == (1, 0)
    assert run() == (0, 1)  # it was written again


def test_kernels_of_other_sources_are_not_taken(
    directories: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    monkeypatch.setattr(cache, "_made_from", lambda: b"changed")
    assert run() == (1, 0)
    assert len([*directories[0].iterdir()]) == 1  # the old ones do not pile up


def test_kernels_in_a_directory_that_cannot_be_written_to_are_found(
    directories: list[Path],
) -> None:
    """As where the superuser installed and compiled."""
    run()
    directories.insert(0, Path("/dev/null/cache"))
    assert run() == (0, 1)


def test_they_go_to_the_first_directory_that_takes_them(directories: list[Path]) -> None:
    directories[0] = Path("/dev/null/cache")
    run()
    assert [path.suffix for path in directories[1].iterdir()] == [".kernel"]


@pytest.mark.parametrize("problem", ["nowhere to write", "no space left", "no directories at all"])
def test_without_a_place_kernels_run_all_the_same(
    directories: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    problem: str,
) -> None:
    if problem == "nowhere to write":
        directories[:] = [Path("/dev/null/a"), Path("/dev/null/b")]
    elif problem == "no space left":
        monkeypatch.setattr(Path, "write_bytes", full_disk)
    else:
        directories.clear()
    assert run() == run() == (1, 0)
    assert len(caplog.records) == 1
    assert "cannot be kept" in caplog.text
    assert not [
        path for directory in directories if directory.is_dir() for path in directory.iterdir()
    ]


def full_disk(path: Path, data: bytes) -> int:
    with path.open("wb") as file:
        file.write(data[:10])
    raise OSError(28, "No space left on device")


def test_the_directories_are_those_of_numba_up_to_one_that_can_be_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "named"))
    named, package, home = tmp_path / "named", PACKAGE / "kernels", tmp_path / "home" / ".cache"

    def found(*writable: Path) -> list[Path]:
        monkeypatch.setattr(cache, "_is_writable", lambda directory: directory.parent in writable)
        return [directory.parent for directory in cache.directories()]

    assert found(named, package) == [named]
    assert found(package, home) == [named, package]
    assert found(home) == found() == [named, package, home]
    monkeypatch.setattr(Path, "home", homeless)
    assert found() == [named, package]
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert found() == [package]


def test_a_directory_that_does_not_exist_is_writable_if_it_can_be_made(tmp_path: Path) -> None:
    assert cache._is_writable(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    assert not cache._is_writable(tmp_path / "file" / "b")


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


CHECK = """
import torch
from mnm_rl import LstmCore
from mnm_rl.kernels import numba_problem
core = LstmCore(3, 8)
# The kernels of LSTM would take long to compile.
core.path = "plain" if numba_problem() is None else "auto"
core(torch.zeros(1, 1, 3), core.initial_state(1), torch.zeros(1, 1, dtype=torch.bool))
print(core.why_plain())
import mnm_rl
print(mnm_rl.__file__)
"""


def library(
    where: Path, code: str = CHECK, limit: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What a process says that finds the package in a directory or zip file."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    }

    def start() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=env | {"PYTHONPATH": str(where)} | environment,
        cwd=where.parent,
        preexec_fn=start,
    )


def packed(kind: str, into: Path) -> Path:
    """The package as a directory of sources or of bytecode, or in a zip file; returns what to put
    into the path."""
    shutil.copytree(
        PACKAGE, into / "here" / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")
    )
    if kind == "zip":
        with zipfile.ZipFile(into / "all.zip", "w") as file:
            for path in (into / "here").rglob("*.py"):
                file.write(path, path.relative_to(into / "here"))
        shutil.rmtree(into / "here")
        return into / "all.zip"
    if kind == "bytecode":
        subprocess.run([sys.executable, "-m", "compileall", "-b", "-q", into / "here"], check=True)
        for path in (into / "here").rglob("*.py"):
            path.unlink()
    return into / "here"


@pytest.mark.parametrize("kind", ["zip", "bytecode"])
def test_a_package_without_source_files_has_kernels(kind: str, tmp_path: Path) -> None:
    where = packed(kind, tmp_path)
    done = library(where, **NOWHERE)
    assert done.returncode == 0, done.stderr
    reason, file = done.stdout.splitlines()
    assert reason == "asked for"
    assert file.startswith(str(where))
    assert ("cannot be kept" in done.stderr) == (kind == "zip")


def test_a_full_disk_and_a_directory_that_is_not_writable_are_done_without(tmp_path: Path) -> None:
    done = library(packed("sources", tmp_path), limit=2000, **NOWHERE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("asked for")
    assert done.stderr.count("\n") == 1
    assert "cannot be kept" in done.stderr


BROKEN = """
import numba.core.dispatcher
def compile(*args, **kwargs):
    raise RuntimeError("LLVM does not know this machine")
numba.core.dispatcher._FunctionCompiler.compile = compile
"""


@pytest.mark.parametrize(
    ("before", "environment", "reason"),
    [
        (BROKEN, {}, "LLVM does not know this machine"),
        ("", {"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT"),
        ("import sys; sys.modules['numba'] = None", {}, "import of numba"),
    ],
)
def test_what_keeps_kernels_from_compiling_is_told_and_the_plain_path_runs(
    before: str, environment: dict[str, str], reason: str, tmp_path: Path
) -> None:
    done = library(packed("sources", tmp_path), before + CHECK, **NOWHERE, **environment)
    assert done.returncode == 0, done.stderr
    assert reason in done.stdout
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_compiling_is_announced_once_for_each_core(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(implementations, "_logged", set())
    monkeypatch.setattr(announcement, "_printed", set())
    monkeypatch.setattr(announcement, "_aloud", False)
    with caplog.at_level("INFO", "mnm_rl"):
        announcement.compiling("lstm")
        assert not capsys.readouterr().out
        announcement.announce_aloud()
        for _ in range(2):
            announcement.compiling("lstm")
            announcement.compiling("gru")
    printed = capsys.readouterr().out.splitlines()
    assert [("lstm" in line, "gru" in line) for line in printed] == [(True, False), (False, True)]
    assert [record.message for record in caplog.records] == printed


@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize(
    "arguments",
    [({"verbose": 1}, {}), ({}, {"progress_bar": True}), ({}, {})],
    ids=["verbose", "bar", "quiet"],
)
def test_a_model_that_says_what_it_does_says_that_kernels_are_compiled(
    arguments: tuple[dict[str, Any], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(announcement, "_printed", set())
    monkeypatch.setattr(announcement, "_aloud", False)
    chosen = implementations.chosen

    def slow(core: Any) -> Any:
        announcement.compiling("lstm")  # as a kernel does when it is first called
        return chosen(core)

    monkeypatch.setattr("mnm_rl.cores.core.chosen", slow)
    of_model, of_learn = arguments
    small(RecurrentA2C, "lstm", "CartPole-v1", **of_model).learn(20, **of_learn)
    assert ("compiling kernels" in capsys.readouterr().out) == bool(of_model or of_learn)


def test_a_kernel_that_is_compiled_announces_its_module(
    monkeypatch: pytest.MonkeyPatch, directories: list[Path]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(simd, "compiling", told.append)

    def outer(x: Any) -> None:
        inner(x)

    outer.__module__ = "mnm_rl.kernels.lstm"
    inner_function = types.FunctionType(doubled.__code__, {})
    inner_function.__module__ = "mnm_rl.kernels.lstm_cell"
    inner = simd.kernel(inner_function)
    simd.kernels.remove(inner)
    run(outer)
    run()  # not one of the package
    assert told == ["lstm"]


COMPILE_AND_TRAIN = """
from mnm_rl import RecurrentA2C, RecurrentPPO, compile
assert compile.main() == 0
from mnm_rl.kernels import simd
before = {kernel: len(kernel.overloads) for kernel in simd.kernels}
for algorithm in (RecurrentPPO, RecurrentA2C):
    for name, arguments in compile.policies():
        for more in ({}, {"heads": 2, "memory_size": 12}) if name == "MnmPolicy" else ({},):
            arguments = {**arguments, **more}
            model = algorithm(
                name, "CartPole-v1", n_steps=32, policy_kwargs=arguments, device="cpu"
            )
            assert model.policy.core.why_plain() is None, model.policy.core
            model.learn(64)
print([kernel for kernel in simd.kernels if len(kernel.overloads) != before[kernel]])
"""


def test_after_the_command_nothing_is_left_to_be_compiled() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_AND_TRAIN],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
