"""The model of a finished run as files for others: weights, a description, and a card that says
what it can do."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from agents import AGENTS
from envs import RETURN
from experiments.command_line import FINAL_SEED, RunError, UsageError, calling, option
from experiments.configuration import Run
from experiments.run import load_model
from experiments.run_directory import RunDirectory
from experiments.scores import Evaluation, final_evaluation
from mnm_rl import __version__
from mnm_rl.algorithms.on_policy import ALGORITHMS


def publish(directory: Path, out: Path) -> None:
    """Write the model of a finished run as ``export`` does, its run and its score into
    ``config.json``, and ``README.md``: what ``from_pretrained`` and ``eval.py`` read, and the
    layout of a model on the Hugging Face Hub.

    Raises:
        RunError: if the model cannot be exported.
        UsageError: if the run is not finished, or ``out`` is not empty.
    """
    run, kept, published = Run.load(directory), RunDirectory(directory), RunDirectory(out)
    if not kept.finished:
        raise UsageError(f"{directory} is no finished run: it has no {kept.model.name}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} is not empty; give it another name")
    model = load_model(run, kept.model, None, "cpu")
    evaluation = final_evaluation(directory, run)
    try:
        model.export(out)
    except ValueError as error:
        raise RunError(str(error)) from None
    summary = evaluation.summary
    others = {name: mean for name, mean in summary.metrics.items() if name != RETURN.name}
    score = {"mean": summary.mean_return, "ci95": summary.return_ci95} | others
    score |= {"episodes": evaluation.episodes, "seed": FINAL_SEED}
    config = json.loads(published.config.read_text())
    config |= {"run": json.loads(kept.config.read_text()), "score": score}
    published.config.write_text(json.dumps(config, indent=2) + "\n")
    (out / "README.md").write_text(
        card(evaluation, sum(p.numel() for p in model.policy.parameters()), command_of(run))
    )


def command_of(run: Run) -> str:
    """The command that makes a run again."""
    defaults = AGENTS[run.agent].defaults(run.algorithm).flat()
    always = ("env", "total_timesteps", "seed", "n_envs")
    options: dict[str, Any] = {name: getattr(run, name) for name in always}
    for own in dataclasses.fields(Run):
        value = getattr(run, own.name)
        if own.name not in (*always, "env_kwargs", "hyperparameters") and value != own.default:
            options[own.name] = value
    options["algorithm"] = run.algorithm
    options |= {
        name: value for name, value in run.hyperparameters.flat().items() if value != defaults[name]
    }
    words = [*calling("train"), run.agent]
    for name, value in options.items():
        words += option(name, value)
    if run.env_kwargs:
        words += [
            "--env-kwargs",
            *(f"{key}={json.dumps(value)}" for key, value in run.env_kwargs.items()),
        ]
    return shlex.join(words)


def card(evaluation: Evaluation, n_parameters: int, command: str) -> str:
    """The card of a model, with the metadata of the Hugging Face Hub."""
    run, summary = evaluation.run, evaluation.summary
    figures = {"Return": f"{summary.mean_return:.2f}"}
    if (ends := summary.return_ci95) is not None:
        figures["Return"] += f" [{ends[0]:.2f}, {ends[1]:.2f}]"
    figures |= {
        metric.label[:1].upper() + metric.label[1:]: f"{mean:.2f}"
        for metric in evaluation.metrics
        if metric.name != RETURN.name and (mean := summary.metrics[metric.name]) is not None
    }
    if (normalized := evaluation.normalized(summary.mean_return)) is not None:
        figures["Score (random 0, oracle 1)"] = f"{normalized:.2f}"
    table = "\n".join(f"| {title} | {figure} |" for title, figure in figures.items())
    about = (AGENTS[run.agent].__doc__ or "").splitlines()[0]
    algorithm = ALGORITHMS[run.algorithm].__name__
    task = f"`{run.env}`"
    if run.env_kwargs:
        task += " with " + ", ".join(
            f"`{key}={json.dumps(value)}`" for key, value in run.env_kwargs.items()
        )
    return f"""---
library_name: mnm-rl
pipeline_tag: reinforcement-learning
tags: [reinforcement-learning, stable-baselines3, {run.agent}, {run.env.replace("/", "-")}]
---
# {run.agent} on {run.env}

{about} Trained by `{algorithm}` on {task}
for {evaluation.steps:,} steps, with seed {run.seed}; {n_parameters:,} parameters.

| {evaluation.episodes} episodes, actions sampled | mean [95% interval over episodes] |
|---|---|
{table}

It is one training of one seed. How much seeds differ is in the package's `docs/results.md`.

```bash
{command}
```

```python
from mnm_rl import {algorithm}

model = {algorithm}.from_pretrained("path/of/this/directory")
```

Written by mnm-rl {__version__}.
"""
