"""The trained models that come with the package, by their names: an environment and an agent, such
as ``"mnm/Maze-v0:mnm-p"``."""

from pathlib import Path

MODELS = Path(__file__).parent / "models"


def trained_models() -> dict[str, Path]:
    """The directory of each model by its name; its README.md says how it was trained, and how well
    it does."""
    directories = sorted(path.parent for path in MODELS.rglob("model.safetensors"))
    return {
        ":".join(directory.relative_to(MODELS).as_posix().rsplit("/", 1)): directory
        for directory in directories
    }


def find_model(name: str | Path) -> Path:
    """The directory of an exported model: a path that there is, or the name of a trained one.

    Raises:
        FileNotFoundError: if there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    models = trained_models()
    if str(name) not in models:
        raise FileNotFoundError(
            f"there is neither a directory nor a trained model {name}; models are "
            f"{', '.join(models)}"
        )
    return models[str(name)]
