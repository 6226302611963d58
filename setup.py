"""What pyproject.toml cannot say: in a wheel, packages with general names are parts of
``mnm_rl_zoo``.

An editable installation has them as the repository does.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

HOME = "mnm_rl_zoo"
MOVED = ("agents", "envs", "experiments", "eval", "train")
IMPORTS = re.compile(rf"^(\s*(?:from|import) )({'|'.join(MOVED)})\b", flags=re.MULTILINE)


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        built = Path(self.build_lib)
        for name in MOVED:
            (source,) = (path for path in (built / name, built / f"{name}.py") if path.exists())
            target = built / HOME / source.name
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(source, target)
        for path in (built / HOME).rglob("*.py"):
            path.write_text(IMPORTS.sub(rf"\1{HOME}.\2", path.read_text()))
        (built / f"{HOME}.pth").write_text(f"import {HOME}.plugin\n")


class EggInfo(egg_info):
    def run(self) -> None:
        super().run()
        (Path(self.egg_info) / "top_level.txt").write_text(f"mnm_rl\n{HOME}\n")


setup(cmdclass={"build_py": BuildPy, "egg_info": EggInfo})
