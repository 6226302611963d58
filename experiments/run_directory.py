"""The directory of a run: what is in it, by name."""

from dataclasses import dataclass
from pathlib import Path

from mnm_rl.files import UNFINISHED, checkpoint, checkpoints


@dataclass(frozen=True)
class RunDirectory:
    """The directory of a run, or of a published model, which has weights in the place of a run's
    checkpoints and model."""

    path: Path

    @property
    def config(self) -> Path:
        """All that is needed to make the run again."""
        return self.path / "config.json"

    @property
    def progress(self) -> Path:
        """A row for every rollout."""
        return self.path / "progress.csv"

    @property
    def errors(self) -> Path:
        """The traceback of an error that nobody foresaw."""
        return self.path / "error.log"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model; it is there once the run is finished."""
        return self.path / "model.zip"

    @property
    def weights(self) -> Path:
        """Those of a published model."""
        return self.path / "model.safetensors"

    @property
    def evaluation(self) -> Path:
        """The episodes that the trained model was evaluated with."""
        return self.path / "evaluation.json"

    @property
    def learning_curve(self) -> Path:
        """The picture that a training ends with."""
        return self.path / "learning_curve.png"

    @property
    def finished(self) -> bool:
        """Whether the training has ended."""
        return self.model.exists()

    @property
    def evaluated(self) -> bool:
        """Whether the trained model, as it is now, has been evaluated."""
        return (
            self.finished
            and self.evaluation.exists()
            and self.evaluation.stat().st_mtime >= self.model.stat().st_mtime
        )

    def saved(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return checkpoints(self.checkpoints)

    def checkpoint(self, steps: int) -> Path:
        """The checkpoint after so many steps."""
        return checkpoint(self.checkpoints, steps)

    def is_before_first_checkpoint(self, path: Path) -> bool:
        """Whether a run writes a file of this name before its first checkpoint."""
        files = (self.config, self.progress, self.errors, self.checkpoints)
        names = {file.name for file in files}
        names |= {file.with_suffix(UNFINISHED).name for file in (self.config, self.progress)}
        return path.name in names or path.name.startswith("events.out.tfevents.")
