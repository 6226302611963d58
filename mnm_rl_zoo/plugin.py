"""Has Gymnasium know the environments as soon as it is imported: ``gym.make("mnm/Maze-v0")`` needs
no import of ours.

Gymnasium has had no plugins since version 1.0 (before, it looked for entry points). What Python
itself offers is a line in a ``.pth`` file, run when an interpreter starts: in a wheel it imports
this module, which waits for Gymnasium and does nothing where nobody imports it.
"""

import sys

# typing, and what the annotations name, would take longer to import than all else here
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class AfterGymnasium:
    """A finder of modules that leaves finding to the others, and imports the environments after
    Gymnasium."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name != "gymnasium":
            return None
        others = [
            finder
            for finder in sys.meta_path
            if finder is not self and hasattr(finder, "find_spec")
        ]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: "ModuleType") -> None:
                execute(module)
                sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
                try:
                    import envs  # noqa: F401
                # whoever wants Gymnasium for something else shall have it
                except Exception as error:
                    import warnings

                    warnings.warn(
                        f"the environments of mnm-rl cannot be had: {error}", stacklevel=2
                    )

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if "gymnasium" not in sys.modules:
    sys.meta_path.insert(0, AfterGymnasium())
