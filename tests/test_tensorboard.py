"""TensorBoard shows the return, the goals and the memory first: the plug-in that draws the charts,
asked for them."""

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from experiments.logs import EventFile
from mnm_rl import RecurrentPPO
from mnm_rl.callbacks import EpisodeMeans, TensorBoardLayout, tensorboard_layout
from tests.policies import small


def what_tensorboard_reads(directory: Path) -> tuple[list[str], set[str]]:
    """The expressions of all charts in their order, and the tags that there are."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(directory)).Reload()
    (run,) = runs.Runs()
    (event,) = runs.Tensors(run, "custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    charts = [chart for category in layout.category for chart in category.chart]
    tags = set(runs.Runs()[run]["tensors"])  # it turns scalars into tensors when it reads them
    return [expression for chart in charts for expression in chart.multiline.tag], tags


def test_a_run_is_laid_out(tmp_path: Path) -> None:
    events = EventFile(tmp_path, up_to=0, keys=["goals"])
    events.write({"rollout/goals": 1.0, "train/loss": 1.0}, {}, step=10)
    expressions, tags = what_tensorboard_reads(tmp_path)
    assert expressions[:2] == ["rollout/ep_rew_mean", "rollout/goals"]
    assert all(expression.startswith("memory/") for expression in expressions[2:])
    assert "rollout/goals" in tags


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_training_of_ones_own_is_laid_out_with_every_figure_of_its_memory(tmp_path: Path) -> None:
    model: Any = small(
        RecurrentPPO,
        "mnm-p",
        gym.make_vec("mnm/Recall-v0", 2),
        tensorboard_log=str(tmp_path),
        n_steps=10,
    )
    # the means of episodes have their charts, whichever callback comes first
    callbacks = [TensorBoardLayout(), EpisodeMeans("accuracy")]
    model.learn(40, callback=callbacks, log_interval=1)
    expressions, tags = what_tensorboard_reads(tmp_path)
    of_memory = {tag for tag in tags if tag.startswith("memory/")}
    assert of_memory
    assert "rollout/accuracy" in tags
    assert {
        tag for tag in of_memory if any(re.fullmatch(expression, tag) for expression in expressions)
    } == of_memory
    assert [
        name
        for charts in tensorboard_layout(["accuracy"]).values()
        for _, names in charts.values()
        for name in names
    ] == expressions
