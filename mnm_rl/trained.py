"""The trained models that come with the package.

Each name combines an environment and an agent, such as ``"mnm/Maze-v0:mnm-p"``.
"""

from pathlib import Path

MODELS = Path(__file__).parent / "models"


def trained_models() -> dict[str, Path]:
    """Return the directory of each model by name.

    The README.md in a directory describes the training and the performance of the model.
    """
    directories = sorted(path.parent for path in MODELS.rglob("model.safetensors"))
    return {
        ":".join(directory.relative_to(MODELS).as_posix().rsplit("/", 1)): directory
        for directory in directories
    }


def find_model(name: str | Path) -> Path:
    """Return the directory of an exported model.

    The model is given by an existing path, or by the name of a trained model.

    Args:
        name: the path or the name.

    Raises:
        FileNotFoundError: if neither the path nor the name exists.
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
