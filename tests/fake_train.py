"""Stands in for train.py where its training does not matter: the same files, signals and exit
codes, in a tenth of a second.

A learning rate of 0.5 makes it fail while ``<DIR>.cure`` is not there, one of 0.25 makes it run
until it is interrupted.
"""

import csv
import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

stopped: list[int] = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))

options = dict(pairwise(sys.argv[1:]))
resumed = "--resume" in options
directory = Path(options["--resume" if resumed else "--out"])
if resumed:
    config = json.loads((directory / "config.json").read_text())
else:
    (directory / "checkpoints").mkdir(parents=True)  # must not be there yet
    config = json.loads(Path(options["--config"]).read_text())
    (directory / "config.json").write_text(json.dumps(config))
steps, rate = config["total_timesteps"], config["hyperparameters"]["algorithm"]["learning_rate"]
print("resumed" if resumed else "started", os.environ["OMP_NUM_THREADS"])

if rate == 0.5 and not directory.with_suffix(".cure").exists():
    print("error: it diverged", file=sys.stderr)
    sys.exit(1)
with open(directory / "progress.csv", "a", newline="") as file:
    table = csv.writer(file)
    if not resumed:
        table.writerow(["time/total_timesteps", "time/time_elapsed", "rollout/goals"])
    first = (
        int(max(checkpoint.stem[5:] for checkpoint in (directory / "checkpoints").iterdir()))
        if resumed
        else 0
    )
    for step in range(first + steps // 4, steps + 1, steps // 4):
        table.writerow([step, 0.01 * step, config["seed"] + step / 100])
        file.flush()
        while rate == 0.25 and not resumed and step == steps // 2 and not stopped:
            time.sleep(0.01)
        if stopped:
            (directory / "checkpoints" / f"step-{step:012d}.zip").touch()
            print(f"stopped: saved at {step}", file=sys.stderr)
            sys.exit(130)
(directory / "model.zip").touch()
