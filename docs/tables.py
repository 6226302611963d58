"""The tables of results in README.md and docs/, from the JSON files in docs/.

python -m docs.tables

rewrites what stands between ``<!-- table: NAME -->`` and ``<!-- end -->``, where NAME is a key of
``TABLES``.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from agents import AGENTS
from experiments import babi
from experiments.grids.results import Group, Results
from experiments.statistics import Scores, interval, iqm
from mnm_rl import LstmCore, MnmPolicy, RecurrentActorCriticPolicy
from mnm_rl.algorithms import policies as named
from mnm_rl.trained import trained_models
from studies import bounded_writes, memory

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMPARED = {
    "small maze": ("maze_small.json", 20),
    "papers' maze": ("maze.json", 30),
    "new walls": ("maze_perfect.json", 10),
    "papers' maze, A2C": ("a2c_maze.json", 20),
    "Recall": ("recall.json", 0.9),
    "Dictionary": ("dictionary.json", 0.9),
}
"""The grids of the comparison, and how soon each agent reached what."""
POPGYM = {
    "RepeatPreviousEasy": (1.00, 1.00),
    "RepeatPreviousMedium": (-0.32, 0.79),
    "AutoencodeEasy": (-0.28, -0.28),
    "HigherLowerMedium": (0.51, 0.51),
    "MultiarmedBanditEasy": (0.62, 0.63),
    "NoisyPositionOnlyCartPoleHard": (0.39, 0.40),
}
"""What Morad et al. (2023) report after 15M steps: the GRU, and the best of their 13 memories."""
MEMORY_TASKS = {
    "Recall, 32 pairs": ("recall", "32 pairs"),
    "dictionary": ("dictionary", "4 string length, 1 min string length, 4 support, 4 queries"),
    "copy 20": ("copy", "20 items, 1 min items"),
    "8 steps back": ("repeat_previous", "8 lag, 32 steps"),
    "31 steps back": ("repeat_previous", "31 lag, 103 steps"),
    "the same, with a clock": ("repeat_previous", "31 lag, 103 steps, 6 clock"),
    "sort 20": ("sort", "20 items"),
}
"""The columns of the summary of docs/memory.md: a grid of studies.memory, one of its settings."""
FEW = 5
"""Of so many seeds each is shown, of more the median and the range."""
BLOCK = re.compile(r"^<!-- table: (\w+) -->$.*?^<!-- end -->$", flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    for page in PAGES:
        page.write_text(render(page.read_text()))


def render(text: str) -> str:
    """The text of a page with its tables made anew.

    Raises:
        KeyError: if the page names a table that is not in ``TABLES``.
    """
    return BLOCK.sub(
        lambda block: f"<!-- table: {block[1]} -->\n\n{TABLES[block[1]]()}\n\n<!-- end -->", text
    )


def initialization() -> str:
    """Goals per episode on the small maze after 1M and 2M steps, with the initialization of version
    0.1.0 and with today's."""
    figures = read("initialization.json")
    shown = [figures["points"].index(steps) for steps in (1_000_000, 2_000_000)]
    agents = dict.fromkeys(
        run["agent"] for run in sorted(figures["after"], key=lambda run: -run["goals"][shown[-1]])
    )

    def goals(group: str, agent: str, at: int) -> str:
        seeds = [run["goals"][at] for run in figures[group] if run["agent"] == agent]
        return f"{np.mean(seeds):.1f} ({', '.join(f'{g:.1f}' for g in seeds)})" if seeds else ""

    rows = [
        [agent, *(goals(group, agent, at) for at in shown for group in ("before", "after"))]
        for agent in agents
    ]
    return table(("agent", "1M steps, before", "1M, after", "2M steps, before", "2M, after"), rows)


def policies() -> str:
    """The policies by name, and the arguments of their memories with their defaults."""
    common = inspect.signature(LstmCore).parameters

    def argument(parameter: inspect.Parameter) -> str:
        default, *others = dict.fromkeys([parameter.default, *get_args(parameter.annotation)])
        text = f"`{parameter.name}={default!r}`" + "".join(f", `{other!r}`" for other in others)
        return text.replace("'", '"')

    def arguments(policy: type[RecurrentActorCriticPolicy]) -> str:
        parameters = inspect.signature(policy.core_class).parameters
        if policy is MnmPolicy:
            return f"{argument(parameters['write_rule'])}, and those below"
        own = [value for name, value in parameters.items() if name not in common]
        return "; ".join(map(argument, own))

    rows = [
        [
            f'`"{name}"`',
            (policy.__doc__ or "").partition(".")[0].removeprefix("Policy with "),
            arguments(policy),
        ]
        for name, policy in vars(named).items()
        if isinstance(policy, type) and policy.__module__ == named.__name__
    ]
    return table(("policy", "memory", "its own arguments, with their defaults"), rows)


def tuning(file: str) -> str:
    """Scores of short runs for every learning rate that was tried, the default in bold."""
    results = Results.load(ROOT / "docs" / "results" / file)
    (algorithm,) = results.grid["algorithms"]
    rates = {
        setting: values["learning_rate"] for setting, values in results.grid["settings"].items()
    }
    found = {(run.agent, run.setting): f"{run.score:.1f}" for run in results.results}

    def goals(agent: str, setting: str) -> str:
        text = found.get((agent, setting), "")
        return (
            f"**{text}**"
            if AGENTS[agent].defaults(algorithm).algorithm.learning_rate == rates[setting]
            else text
        )

    agents = [agent for agent in AGENTS if agent in {run.agent for run in results.results}]
    return table(
        ("agent", *rates),
        ([agent, *(goals(agent, setting) for setting in rates)] for agent in agents),
    )


def bounded_writes_study(shown: Callable[[int], bool]) -> str:
    """Updates or steps until solved, of the seeds that are to be shown."""
    return bounded_writes.table([row for row in read("bounded_writes.json") if shown(row["seed"])])


def initial_weights() -> str:
    """Goals per episode at the end of 1M steps for each change of the initial weights."""
    runs = read("initialization.json")["weights"]
    agents, variants = (
        list(dict.fromkeys(run[key] for run in runs)) for key in ("agent", "variant")
    )

    def goals(agent: str, variant: str) -> str:
        own = (
            run["goals_at_the_end"]
            for run in runs
            if (run["agent"], run["variant"]) == (agent, variant)
        )
        return ", ".join(f"{g:.1f}" for g in own)

    return table(
        ("initial weights", *agents),
        ([variant, *(goals(agent, variant) for agent in agents)] for variant in variants),
    )


def elsewhere() -> str:
    """Mean return at the end of training with both initializations, on tasks other than the
    maze."""
    runs = read("initialization.json")["elsewhere"]
    cases = dict.fromkeys((run["task"], run["policy"]) for run in runs)

    def returns(task: str, policy: str, init: str) -> str:
        own = (
            run for run in runs if (run["task"], run["policy"], run["init"]) == (task, policy, init)
        )
        return ", ".join("diverged" if run["failed"] else f"{run['at_the_end']:.3g}" for run in own)

    rows = [
        [task, policy, *(returns(task, policy, init) for init in ("pytorch", "scaled"))]
        for task, policy in cases
    ]
    return table(("task", "policy", '`init="pytorch"`', '`init="scaled"`'), rows)


def memory_task(file: str) -> str:
    """Updates and seconds until each agent has learned a memory task, and how it does where it was
    only tested."""
    runs = timed_runs(file)
    settings, tests = (
        list(dict.fromkeys(names))
        for names in (map(memory.name, runs), (test for run in runs for test in run["tests"]))
    )

    def soon(own: list[dict[str, Any]]) -> str:
        updates, seconds = (
            [memory.solved(run, axis) for run in own] for axis in ("updates", "seconds")
        )
        known = [x for x in seconds if x is not None]
        each = ", ".join(
            f"{run['accuracy'][-1]:.0%}" if n is None else f"{n:,}"
            for n, run in zip(updates, own, strict=True)
        )
        return f"{each} ({np.mean(known):.1f} s)" if known else each

    rows = []
    for agent in dict.fromkeys(run["agent"] for run in runs):
        own = [run for run in runs if run["agent"] == agent]
        soonest = [
            soon([run for run in own if memory.name(run) == setting]) for setting in settings
        ]
        beyond = [", ".join(f"{run['tests'][test]:.0%}" for run in own) for test in tests]
        rows.append([agent, *soonest, *beyond])
    columns = settings if len(settings) > 1 else [f"updates to {memory.SOLVED:.0%}"]
    tested = [f"right, {memory.in_words(test)}" for test in tests]
    seeds = either(
        str(len({run["seed"] for run in runs if run["agent"] == agent}))
        for agent in dict.fromkeys(r["agent"] for r in runs)
    )
    solved = {memory.solved(run, "updates") is not None for run in runs}
    note = f"Updates to {memory.SOLVED:.0%}, each of {seeds} seeds"
    if True in solved:
        note += ", and the mean seconds of those that get there"
    if False in solved:
        last = max(run["updates"][-1] for run in runs)
        note += f"; a share is what is right after {last:,} updates, without having got there"
    return f"{table(('agent', *columns, *tested), rows)}\n\n{note}."


def memory_tasks() -> str:
    """Medians over seeds of the updates and seconds to solve each of :data:`MEMORY_TASKS`, the
    smallest in bold, or of the share of right answers at the end where most seeds do not."""
    columns: dict[str, dict[str, str]] = {}
    for title, (task, setting) in MEMORY_TASKS.items():
        seeds: dict[str, list[dict[str, Any]]] = {}
        for run in timed_runs(f"memory_{task}.json"):
            if memory.name(run) == setting:
                seeds.setdefault(run["agent"], []).append(run)
        at = {
            agent: [
                [memory.solved(run, axis) or np.inf for axis in ("updates", "seconds")]
                for run in own
            ]
            for agent, own in seeds.items()
        }
        right = {
            agent: f"{np.median([run['accuracy'][-1] for run in own]):.0%}"
            for agent, own in seeds.items()
        }
        columns[title] = medians(at, lambda updates: f"{updates:,.0f}", right)
    return side_by_side(columns)


def timed_runs(file: str) -> list[dict[str, Any]]:
    """The runs of a memory task, with the seconds of a machine that had nothing else to do."""
    return memory.timed_by(read(file)["runs"], ROOT / "docs" / "memory_seconds.json")


def babi_errors() -> str:
    """Errors on the tasks of bAbI after the last epoch of each run in docs/babi/, those of failed
    tasks in bold."""
    runs = [
        json.loads(file.read_text()) for file in sorted((ROOT / "docs" / "babi").glob("*.json"))
    ]
    runs.sort(key=lambda run: run["epochs_done"][-1]["mean_error"])
    last = [run["epochs_done"][-1] for run in runs]
    names = [run["agent"] + (f", seed {run['seed']}" if run["seed"] else "") for run in runs]

    def error(epoch: dict[str, Any], task: int) -> str:
        share = epoch["errors"][str(task)]
        return f"**{share:.1%}**" if share > babi.FAILED else f"{share:.1%}"

    rows = [
        [f"{task} {name}", *(error(epoch, task) for epoch in last)]
        for task, name in babi.TASKS.items()
    ]
    rows.append(["mean", *(f"{epoch['mean_error']:.1%}" for epoch in last)])
    without = [
        np.mean([error for task, error in epoch["errors"].items() if task != "3"]) for epoch in last
    ]
    rows.append(["mean without task 3", *(f"{mean:.1%}" for mean in without)])
    rows.append(["failed", *(str(epoch["failed"]) for epoch in last)])
    rows.append(["epochs", *(str(epoch["epoch"]) for epoch in last)])
    rows.append(["minutes", *(f"{epoch['seconds'] / 60:.0f}" for epoch in last)])
    return table(("task", *names), rows)


def babi_changes() -> str:
    """What single changes did to the errors on six tasks of bAbI, after equally many epochs."""
    runs = read("babi_changes.json")
    return table(
        ("run", "epochs", "training loss", *(f"task {task}" for task in runs[0]["errors"])),
        (
            [
                run["change"],
                str(run["epoch"]),
                f"{run['loss']:.2f}",
                *(f"{share:.0%}" for share in run["errors"].values()),
            ]
            for run in runs
        ),
    )


def hidden_velocity() -> str:
    """How soon each policy balances CartPole without velocities, the fastest first, variants (after
    a comma) last."""
    figures = read("hidden_velocity.json")
    budget = figures["options"]["total_timesteps"]
    policies: dict[str, list[dict[str, Any]]] = {}
    for run in figures["runs"]:
        policies.setdefault(run["policy"], []).append(run)

    def order(policy: str) -> tuple[bool, float]:
        return "," in policy, float(
            np.mean([run["steps_to_threshold"] or budget for run in policies[policy]])
        )

    rows = []
    for policy in sorted(policies, key=order):
        steps = (run["steps_to_threshold"] for run in policies[policy])
        best_and_last = (
            ", ".join(f"{run[key]:.0f}" for run in policies[policy]) for key in ("best", "last")
        )
        rows.append(
            [policy, ", ".join("never" if n is None else f"{n:,}" for n in steps), *best_and_last]
        )
    return table(("policy", "steps to 400, each seed", "highest mean return", "at the end"), rows)


def grid(file: str, *marks: float, digits: int = 1) -> str:
    """What each agent of a grid reaches, the best first, and how soon it first reached each mark
    while training."""
    results = Results.load(ROOT / "docs" / "results" / file)
    rows = []
    marked = among_the_best({group: results.scores(group) for group in results.groups})
    for group, runs in results.groups.items():
        scores = results.scores(group)
        between = interval([scores])
        reached = bold(f"{iqm(scores):.{digits}f}", group in marked) + (
            f" [{between[0]:.{digits}f}, {between[1]:.{digits}f}]" if between else ""
        )
        soon = []
        for mark in marks:
            steps, seconds = zip(*(first_at(run.curve, mark) for run in runs), strict=True)
            soon += [each(steps, lambda x: f"{x / 1e3:.0f}k"), each(seconds, lambda x: f"{x:.0f}")]
        rows.append([group[0], reached, each(scores, lambda x: f"{x:.{digits}f}"), *soon])
    (environment,) = results.grid["environments"]
    for reference, played in results.references.get(environment, {}).items():
        rows.append(
            [f"*{reference}*", f"{played['goals']:.{digits}f}", *[""] * (1 + 2 * len(marks))]
        )
    unit = results.metric(environment).label
    seeds = [len(runs) for runs in results.groups.values()]
    shown = "each seed" if max(seeds) <= FEW else "median and range"
    columns = [f"{what} to {mark:g}, {shown}" for mark in marks for what in ("steps", "seconds")]
    steps = either(f"{run.steps / 1e6:.1f}M" for run in results.results)
    return (
        f"{table(('agent', unit, shown, *columns), rows)}\n\n"
        f"`{environment}`, {'/'.join(results.grid['algorithms']).upper()}; seeds: "
        f"{either(map(str, seeds))}; "
        f"training steps: {steps}; evaluation episodes per seed: "
        f"{either(str(run.episodes) for run in results.results)}."
    )


def popgym(file: str) -> str:
    """POPGym's score of each memory and environment, the highest mean return while training, beside
    the published ones."""
    results = Results.load(ROOT / "docs" / "results" / file)
    usual, order = next(iter(results.grid["settings"])), list(AGENTS)
    agents: dict[str, list[Any]] = {}
    for run in sorted(results.results, key=lambda x: (x.setting != usual, order.index(x.agent))):
        name = run.agent if run.setting == usual else f"{run.agent}, {run.setting}"
        agents.setdefault(name, []).append(run)
    rows = []
    for environment in results.grid["environments"]:
        scores = {
            agent: np.array(
                [max(run.curve["score"]) for run in own if run.environment == environment]
            )
            for agent, own in agents.items()
        }
        marked = among_the_best(scores)
        name = environment.removeprefix("popgym:popgym-").removesuffix("-v0")
        rows.append(
            [
                name,
                *(
                    bold(f"{np.mean(scores[agent]):.2f}", agent in marked)
                    + f" [{np.min(scores[agent]):.2f}, {np.max(scores[agent]):.2f}]"
                    for agent in agents
                ),
                *(f"{score:.2f}" for score in POPGYM[name]),
            ]
        )
    seconds = (np.mean([run.curve["seconds"][-1] for run in own]) for own in agents.values())
    rows.append(["*mean seconds of a run*", *(f"{own:.0f}" for own in seconds), "", ""])
    seeds = either(str(len(own)) for own in results.groups.values())
    columns = ("environment", *agents, "published, 15M steps: GRU", "best of 13")
    return (
        f"{table(columns, rows)}\n\n"
        f"The mean [lowest, highest] of {seeds} seeds, after "
        f"{either(f'{run.steps / 1e6:.1f}M' for run in results.results)} steps."
    )


def trained() -> str:
    """The trained models and their scores."""
    rows = []
    for name, directory in trained_models().items():
        config = json.loads((directory / "config.json").read_text())
        score = config["score"]
        low, high = score["ci95"]
        digits = 1 if score["mean"] > 2 else 2
        rows.append(
            [
                f"`{name}`",
                f"{config['num_timesteps'] / 1e6:.1f}M",
                f"{score['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]",
                "" if score["goals"] is None else f"{score['goals']:.1f}",
                f"{(directory / 'model.safetensors').stat().st_size / 1e3:,.0f}",
            ]
        )
    return table(("model", "steps", "return", "goals", "kB"), rows)


def masks(file: str, mark: float) -> str:
    """How soon so many goals are reached, with and without masked walls."""
    rows = []
    results = Results.load(ROOT / "docs" / "results" / file)
    for (_, _, environment), runs in sorted(results.groups.items(), key=lambda item: item[0][2]):
        steps = each([first_at(run.curve, mark)[0] for run in runs], lambda x: f"{x / 1e3:.0f}k")
        rows.append(
            [f"`{environment}`", steps, each([run.score for run in runs], lambda x: f"{x:.1f}")]
        )
    return table(("environment", f"steps to {mark:g}, each seed", "goals after training"), rows)


def compared(cells: Callable[[Results, dict[str, Group], float], dict[str, str]]) -> str:
    """A row for each agent of the first grid of :data:`COMPARED`, with its best setting other than
    without writes, and a column for each grid."""
    columns = {}
    for title, (file, mark) in COMPARED.items():
        results = Results.load(ROOT / "docs" / "results" / file)
        # of an agent's, the best is the last
        groups = {
            runs[0].agent: group
            for group, runs in reversed(results.groups.items())
            if runs[0].setting != "no writes"
        }
        columns[title] = cells(results, groups, mark)
    return side_by_side(columns)


def side_by_side(columns: Mapping[str, Mapping[str, str]]) -> str:
    """A table with a row for each agent of the first column: the cells of a column, by agent."""
    first = next(iter(columns.values()))
    agents = [agent for agent in AGENTS if agent in first]
    return table(
        ("agent", *columns),
        ([agent, *(column.get(agent, "") for column in columns.values())] for agent in agents),
    )


def final_scores(results: Results, groups: dict[str, Group], _: float) -> dict[str, str]:
    """Interquartile means, in bold the best and those whose interval overlaps that of the best."""
    digits = 1 if any(results.references.values()) else 2
    marked = among_the_best({agent: results.scores(group) for agent, group in groups.items()})
    return {
        agent: bold(f"{iqm(results.scores(group)):.{digits}f}", agent in marked)
        for agent, group in groups.items()
    }


def among_the_best(scores: Mapping[Any, Scores]) -> set[Any]:
    """Which of these is the best, by its interquartile mean, or has an interval that overlaps that
    of the best; a single seed is an interval of no length."""
    means = {name: float(iqm(values)) for name, values in scores.items()}
    ends = {name: interval([values]) or (means[name],) * 2 for name, values in scores.items()}
    best = max(means, key=lambda name: means[name])
    return {name for name in ends if ends[name][1] >= ends[best][0]}


def bold(text: str, yes: bool) -> str:
    return f"**{text}**" if yes else text


def soonest(results: Results, groups: dict[str, Group], mark: float) -> dict[str, str]:
    """Medians of the steps and of the seconds to a mark, the smallest in bold."""
    at = {
        agent: [first_at(run.curve, mark) for run in results.groups[group]]
        for agent, group in groups.items()
    }
    return medians(at, lambda steps: f"{steps / 1e3:.0f}k", dict.fromkeys(at, "never"))


def medians(
    at: Mapping[str, Sequence[Sequence[float]]],
    write: Callable[[float], str],
    otherwise: Mapping[str, str],
) -> dict[str, str]:
    """Medians over seeds of steps, or updates, and seconds, the smallest in bold.

    Args:
        at: both, of each seed, by agent; infinite where the goal was not reached.
        write: steps in words.
        otherwise: what stands where the median is infinite, by agent.
    """
    middle = {agent: np.median(seeds, axis=0) for agent, seeds in at.items()}
    least = np.min(list(middle.values()), axis=0)

    def cell(steps: float, seconds: float) -> str:
        return f"{bold(write(steps), steps == least[0])}, " + bold(
            f"{seconds:.0f} s", seconds == least[1]
        )

    return {
        agent: otherwise[agent] if np.isinf(median[0]) else cell(*median)
        for agent, median in middle.items()
    }


def first_at(curve: dict[str, list[float]], mark: float) -> tuple[float, float]:
    """The step and the second at which a learning curve first reached a score; infinite if it never
    did."""
    points = zip(curve["steps"], curve["seconds"], curve["score"], strict=True)
    return next(
        ((steps, seconds) for steps, seconds, score in points if score >= mark), (np.inf, np.inf)
    )


def each(values: Sequence[float], write: Callable[[float], str]) -> str:
    """The values of a few seeds, or the median and the range of many."""

    def in_words(value: float) -> str:
        return "never" if value == np.inf else write(value)

    if len(values) <= FEW:
        return ", ".join(map(in_words, values))
    return (
        f"{in_words(float(np.median(values)))} ({in_words(min(values))} to {in_words(max(values))})"
    )


def drop_in() -> str:
    """How soon RecurrentPPO solves tasks that need a memory, beside sb3-contrib's."""
    runs = read("drop_in.json")
    rows = []
    for task, agent in dict.fromkeys((run["task"], run["agent"]) for run in runs):
        own = [run for run in runs if (run["task"], run["agent"]) == (task, agent)]
        steps = ", ".join("never" if run["steps"] is None else f"{run['steps']:,}" for run in own)
        seconds = ", ".join(
            "never" if run["seconds"] is None else f"{run['seconds']:.0f}" for run in own
        )
        best = ", ".join(f"{run['best']:.3g}" for run in own)
        speed = ", ".join(f"{run['steps_per_second']:,}" for run in own)
        rows.append([task, agent, steps, seconds, best, speed])
    return table(
        ("task", "policy", "steps until solved, each seed", "seconds", "best return", "steps/s"),
        rows,
    )


def cores(shown: Callable[[dict[str, Any]], bool], bound: bool = True) -> str:
    """Speed and memory of the cores beside their naive versions, in those cases that are to be
    shown.

    Args:
        shown: whether a case of throughput.json is.
        bound: with the columns that a summary can do without.
    """
    figures = read("throughput.json")
    columns = [
        "core",
        "B",
        "T",
        "H",
        "steps/s",
        "naive",
        "times",
        "share of the bound",
        "MB",
        "naive MB",
        "times",
    ]
    rows = []
    for case in filter(shown, figures["cores"]):
        fast, naive = case["fused"], case["naive"]
        speed, memory = (
            [number(way[key]) for way in (fast, naive)] for key in ("steps_per_second", "memory_mb")
        )
        rows.append(
            [
                *(str(case[key]) for key in ("core", "B", "T", "H")),
                *(*speed, ratio(fast["steps_per_second"], naive["steps_per_second"])),
                f"{(fast['steps_per_second'] or 0) / case['bound_steps_per_second']:.0%}",
                *(*memory, ratio(naive["memory_mb"], fast["memory_mb"])),
            ]
        )
    if not bound:
        columns, *rows = ([*row[:7], *row[8:]] for row in (columns, *rows))
    machine = figures["machine"]
    return (
        f"{table(columns, rows)}\n\n"
        f"{machine['threads']} threads; float32 matrix product: "
        f"{machine['matrix_product_gflops']} GFLOP/s; D = 100."
    )


def paths() -> str:
    """Speed and memory of the ways to run a neural memory."""
    figures = read("paths.json")
    cores, ways = (
        list(dict.fromkeys(row[key] for row in figures["rows"])) for key in ("core", "path")
    )
    found = {(row["core"], row["path"]): row for row in figures["rows"]}
    rows = [
        [
            core,
            *(
                number(found[core, way][key])
                for key in ("steps_per_second", "memory_mb")
                for way in ways
            ),
        ]
        for core in cores
    ]
    columns = ("core", *(f"{unit}, {way}" for unit in ("steps/s", "MB") for way in ways))
    machine = figures["machine"]
    return (
        f"{table(columns, rows)}\n\n"
        f"{machine['threads']} threads; float32 matrix product: "
        f"{machine['matrix_product_gflops']} GFLOP/s; D = 100."
    )


def gpu_cores() -> str:
    """Speed of the cores on a GPU, in every way they run there, beside the kernels on the CPU of
    the same machine."""
    figures = read("gpu.json")
    rows = [row for row in figures["rows"] if "core" in row]
    environments = list(dict.fromkeys(row["B"] for row in rows))
    found: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        where = "CPU" if row["device"] == "cpu" else "GPU"
        found.setdefault((row["core"], where, "fused" if where == "CPU" else row["path"]), {})[
            row["B"]
        ] = row
    return (
        table(
            (
                "core",
                "on",
                "path",
                *(f"steps/s, B = {B}" for B in environments),
                f"GPU's MB, B = {environments[-1]}",
            ),
            (
                [
                    *what,
                    *(number(at[B]["steps_per_second"]) for B in environments),
                    number(at[environments[-1]]["memory_mb"]) if what[1] == "GPU" else "",
                ]
                for what, at in found.items()
            ),
        )
        + f"\n\n{_gpu(figures)}; T = 200, D = 100."
    )


def gpu_training() -> str:
    """Speed of training on a GPU, beside that on the CPU of the same machine."""
    figures = read("gpu.json")
    rows = [row for row in figures["rows"] if "agent" in row]
    found = {(row["agent"], row["n_envs"], row["device"]): row["steps_per_second"] for row in rows}
    agents, environments = (dict.fromkeys(row[key] for row in rows) for key in ("agent", "n_envs"))
    cells = (
        [
            agent,
            *(number(found[agent, n, device]) for n in environments for device in ("cpu", "cuda")),
        ]
        for agent in agents
    )
    columns = (
        "agent",
        *(f"steps/s, {n} environments, {where}" for n in environments for where in ("CPU", "GPU")),
    )
    return f"{table(columns, cells)}\n\n{_gpu(figures)}."


def _gpu(figures: dict[str, Any]) -> str:
    gpu, threads, rate = (
        figures["machine"][key] for key in ("gpu", "threads", "matrix_product_gflops")
    )
    return f"{gpu}; {threads} CPU threads; their float32 matrix product: {rate} GFLOP/s"


def training() -> str:
    """Speed of training on the maze, and of the maze alone."""
    figures = read("throughput.json")
    base = figures["training"]["RecurrentPPO"]
    rows = [
        [agent, number(speed), ratio(speed, base)] for agent, speed in figures["training"].items()
    ]
    maze_alone = (
        f"The batched maze alone, 1,024 environments on one core: {figures['maze'] / 1e6:.1f}M "
        "steps per second."
    )
    return f"{table(('agent', 'steps/s', 'times RecurrentPPO'), rows)}\n\n{maze_alone}"


def hours() -> str:
    """Runs and core hours of everything that was trained for the tables."""
    commands: dict[str, list[float]] = {}
    for file in sorted((ROOT / "docs" / "results").glob("*.json")):
        grid = Results.load(file)
        name = file.stem if (ROOT / "experiments" / f"{file.stem}.toml").exists() else grid.name
        commands.setdefault(f"python -m experiments run experiments/{name}.toml", []).extend(
            run.curve["seconds"][-1] for run in grid.results
        )
    for task in memory.GRIDS:
        runs = read(f"memory_{task}.json")["runs"]
        commands[f"python -m studies.memory {task}"] = [run["seconds"][-1] for run in runs]
    commands["python -m experiments.babi DATA AGENT"] = [
        json.loads(file.read_text())["epochs_done"][-1]["seconds"]
        for file in (ROOT / "docs" / "babi").glob("*.json")
    ]
    commands["python -m studies.drop_in"] = [run["curve"][-1][1] for run in read("drop_in.json")]
    commands["python -m studies.hidden_velocity"] = [
        run["seconds"] for run in read("hidden_velocity.json")["runs"]
    ]
    rows = [
        [f"`{command}`", str(len(seconds)), f"{sum(seconds) / 3600:.1f}"]
        for command, seconds in commands.items()
    ]
    return table(("command", "runs", "core hours"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "policies": policies,
    "compared": lambda: compared(final_scores),
    "compared_speed": lambda: compared(soonest),
    "bounded_writes": lambda: bounded_writes_study(lambda seed: seed >= bounded_writes.REPORTED),
    "bounded_writes_chosen": lambda: bounded_writes_study(
        lambda seed: seed < bounded_writes.REPORTED
    ),
    "ppo_small": lambda: grid("maze_small.json", 10, 20),
    "ppo_small_unlimited": lambda: grid("maze_small_unlimited.json", 20),
    "ppo_maze": lambda: grid("maze.json", 20, 30),
    "ppo_perfect": lambda: grid("maze_perfect.json", 5, 10),
    "popgym": lambda: popgym("popgym.json"),
    "popgym_medium": lambda: popgym("popgym_medium.json"),
    "repeat_previous_long": lambda: grid("repeat_previous.json", 0.2, 0.3, digits=2),
    "repeat_previous_clock": lambda: grid("repeat_previous_clock.json", 0.3, 0.9, digits=2),
    "trained": trained,
    "masks": lambda: masks("masks.json", 20),
    "masks_perfect": lambda: masks("masks_perfect.json", 10),
    "annealing": lambda: grid("annealing.json", 20),
    "ppo_clock": lambda: grid("maze_clock.json", 20, 26, 30),
    "ppo_clock_tuning": lambda: grid("maze_clock_tuning.json", 20, 26, 30),
    "ppo_clock_memory": lambda: grid("maze_clock_memory.json", 20, 26, 30),
    "ppo_clock_default": lambda: grid("maze_clock_default.json", 20, 26, 30),
    "a2c_maze": lambda: grid("a2c_maze.json", 20, 30),
    "a2c_small": lambda: grid("a2c_maze_small.json", 10, 20),
    "ablations": lambda: grid("ablations.json", 10, 20),
    "ppo_dictionary": lambda: grid("dictionary.json", 0.5, 0.9, digits=2),
    "ppo_copy": lambda: grid("copy.json", 0.5, 0.9, digits=2),
    "ppo_recall": lambda: grid("recall.json", 0.5, 0.9, digits=2),
    "ppo_tuning": lambda: tuning("tuning.json"),
    "a2c_tuning": lambda: tuning("a2c_tuning.json"),
    "drop_in": drop_in,
    "initialization": initialization,
    "initial_weights": initial_weights,
    "elsewhere": elsewhere,
    "memory_tasks": memory_tasks,
    "memory_recall": lambda: memory_task("memory_recall.json"),
    "memory_dictionary": lambda: memory_task("memory_dictionary.json"),
    "memory_copy": lambda: memory_task("memory_copy.json"),
    "memory_repeat_previous": lambda: memory_task("memory_repeat_previous.json"),
    "memory_sort": lambda: memory_task("memory_sort.json"),
    "babi": babi_errors,
    "babi_changes": babi_changes,
    "hidden_velocity": hidden_velocity,
    "cores_in_short": lambda: cores(
        lambda case: (case["B"], case["T"], case["H"]) == (32, 200, 1), bound=False
    ),
    "cores": lambda: cores(lambda case: case["B"] != 16),
    "cores_by_length": lambda: cores(lambda case: case["B"] == 16),
    "paths": paths,
    "training": training,
    "gpu_cores": gpu_cores,
    "gpu_training": gpu_training,
    "hours": hours,
}


def read(file: str) -> Any:
    return json.loads((ROOT / "docs" / file).read_text())


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    return "\n".join(
        f"| {' | '.join(row)} |".replace("|  |", "| |")
        for row in [columns, ["---"] * len(columns), *rows]
    )


def either(values: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(values))


def number(value: float | None) -> str:
    return "does not fit" if value is None else f"{value:,.0f}"


def ratio(a: float | None, b: float | None) -> str:
    return f"{a / b:.1f}" if a and b else ""


def mean(values: Iterable[float | None]) -> str:
    """The mean of the values that there are."""
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.1f}" if known else ""


if __name__ == "__main__":
    main()
