"""The report of a grid: a page that needs nothing but itself, and figures that everybody can
read."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from agents import AGENTS
from experiments.__main__ import Options, main
from experiments.analysis.figures import COLORS, RELATIVES, agent_color, style_of
from experiments.analysis.page import FIGURES, write_figures, write_page
from experiments.command_line import UsageError, parse
from experiments.grids.results import Results
from tests.results import MAZE, result, results, three_agents

ROOT = Path(__file__).parent.parent
BROWSER = next(
    filter(
        None,
        map(
            shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        ),
    ),
    None,
)

# Machado, Oliveira and Fernandes (2009): linear RGB as it is seen with normal sight and without one
# kind of cones.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(three_agents(), path)
    return path


def linear(color: str) -> Any:
    rgb = np.array(mpl.colors.to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab(rgb: Any) -> Any:
    """Linear RGB in a space where distances are differences that are seen (Ottosson 2020)."""
    cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    axes = [
        [0.21045, 0.79362, -0.00407],
        [1.97800, -2.42859, 0.45059],
        [0.02590, 0.78277, -0.80868],
    ]
    return np.array(axes) @ np.cbrt(np.array(cones) @ np.clip(rgb, 0, 1))


def test_every_agent_has_a_color_and_a_new_one_gets_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: agent_color(name) for name in AGENTS}
    assert set(before.values()) == set(COLORS.values())
    assert agent_color("mnm-p-paper") == agent_color("mnm-p")
    new = [f"new-{i}" for i in range(len(COLORS) + 1)]
    for name in new:
        monkeypatch.setitem(AGENTS, name, AGENTS["lstm"])
    assert before == {name: agent_color(name) for name in before}
    palette, given = list(COLORS.values()), [agent_color(name) for name in new]
    first = palette.index(given[0])
    assert given == [palette[(first + i) % len(palette)] for i in range(len(new))]
    labels = [*AGENTS, "mnm-p, 4 heads"]
    styles = [tuple(map(str, style_of(label, labels).values())) for label in labels]
    assert len(set(styles)) == len(labels)


@pytest.mark.parametrize("sight", SIGHT)
def test_colors_are_told_apart_with_every_kind_of_sight(sight: str) -> None:
    seen = {agent: oklab(np.array(SIGHT[sight]) @ linear(color)) for agent, color in COLORS.items()}
    for a, b in combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 0.1, f"{a} and {b}"


@pytest.mark.parametrize("background", ["#ffffff", "#15171c"])
def test_colors_stand_out_from_light_and_dark(background: str) -> None:
    weights = [0.2126, 0.7152, 0.0722]
    for agent, color in COLORS.items():
        dark, light = sorted(float(linear(c) @ weights) for c in (color, background))
        assert (light + 0.05) / (dark + 0.05) > 2, agent


def test_an_agent_has_one_color_and_each_of_its_settings_other_dashes() -> None:
    labels = ["mnm-p", "lstm", "mnm-p, 4 heads", "mnm-p-paper"]
    styles = [style_of(label, labels) for label in labels]
    assert [style["color"] for style in styles] == [
        COLORS["mnm-p"],
        COLORS["lstm"],
        COLORS["mnm-p"],
        COLORS["mnm-p"],
    ]
    assert len({str(style["linestyle"]) for style in (styles[0], *styles[2:])}) == 3
    assert styles[0]["linestyle"] == styles[1]["linestyle"] == "-"
    for agent, other in RELATIVES.items():
        its, others = (style_of(label, [agent, other]) for label in (agent, other))
        assert its["color"] == others["color"]
        assert its["linestyle"] != others["linestyle"] == "-"


class Addresses(HTMLParser):
    """Whatever a browser would load, and all ids."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if (
                name in ("src", "href", "xlink:href", "srcset", "data")
                and value
                and not value.startswith(("#", "data:,"))
            ):
                self.loaded.append(value)
            if name == "id" and value:
                self.ids.append(value)


def test_the_page_is_all_that_is_needed(page: Path) -> None:
    text = page.read_text()
    found = Addresses()
    found.feed(text)
    assert found.loaded == []
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(found.ids) == len(set(found.ids))
    assert text.count("<svg") == len(FIGURES)
    assert "prefers-color-scheme: dark" in text


def test_the_page_says_what_was_run_and_how_to_do_it_again(page: Path) -> None:
    text = page.read_text()
    for expected in (
        "15 of 20 runs are finished",
        "The small maze &lt;again&gt;",
        "python -m experiments run experiments/small.toml",
        "torch 2.13.0",
        "learning_rate",
        "goals per episode",
    ):
        assert expected in text
    commands = re.findall(
        r"^(?:<pre>)?python -m experiments (.+?)(?:</pre>)?$", text, flags=re.MULTILINE
    )
    assert len(commands) == 3
    for command in commands:
        parse(Options, command.split(), prog="python -m experiments")
    order = [text.index(f"</span>{agent}</td>") for agent in ("mnm-p", "lstm", "rnn")]
    assert order == sorted(order)  # the best first


def test_the_same_data_gives_the_same_page_and_figures(page: Path, tmp_path: Path) -> None:
    three_agents().save(tmp_path / "small.json")
    write_page(Results.load(tmp_path / "small.json"), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


SHOWN = {
    "ppo_maze": "maze-0-steps",
    "ppo_maze.dark": "maze-0-steps.dark",
    "ppo_maze_within": "maze-0-waits",
    "ppo_perfect": "maze_perfect-0-steps",
    "ppo_perfect_within": "maze_perfect-0-waits",
    "a2c_maze": "a2c_maze-0-steps",
    "a2c_maze_within": "a2c_maze-0-waits",
    "ppo_recall": "recall-0-steps",
    "ppo_dictionary": "dictionary-0-steps",
    "ppo_copy": "copy-0-steps",
    "popgym": "popgym-all-steps",
}
"""The figures of reports that the documentation shows."""


@pytest.mark.parametrize("grid", sorted({drawn.split("-")[0] for drawn in SHOWN.values()}))
def test_committed_figures_are_those_of_the_committed_data(grid: str, tmp_path: Path) -> None:
    results = Results.load(ROOT / "docs" / "results" / f"{grid}.json")
    write_figures(results, tmp_path, "png", "dark.png")
    for kept, drawn in SHOWN.items():
        if drawn.startswith(f"{grid}-"):
            files = tmp_path / f"{drawn}.png", ROOT / "docs" / f"{kept}.png"
            now, then = (np.asarray(Image.open(file).convert("RGB"), float) for file in files)
            assert now.shape == then.shape
            assert np.abs(now - then).mean() < 0.1, f"draw docs/{kept}.png again"


def test_figures_for_papers(tmp_path: Path) -> None:
    written = write_figures(three_agents(), tmp_path / "figures", "pdf", "png")
    assert len(written) == 2 * len(FIGURES)
    for path in written:
        assert path.read_bytes().startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")


def test_several_environments_are_shown_side_by_side_too(tmp_path: Path) -> None:
    both = results(
        *(
            result(agent, seed, 1.0 + seed, metrics=environment == MAZE, environment=environment)
            for environment in (MAZE, "CartPole-v1")
            for agent in ("mnm-p", "lstm")
            for seed in (0, 1)
        )
    )
    written = write_figures(both, tmp_path, "png")
    assert len(written) == 2 * len(FIGURES) + 1
    assert tmp_path / "small-all-steps.png" in written
    write_page(both, tmp_path / "report.html")
    assert "All environments" in (tmp_path / "report.html").read_text()


def test_one_run_alone_can_be_reported(tmp_path: Path) -> None:
    alone = results(result("lstm", 0, 0.5, metrics=False, environment="CartPole-v1", waits=[]))
    write_page(alone, tmp_path / "report.html")
    assert "CartPole-v1, PPO" in (tmp_path / "report.html").read_text()


def test_the_command_makes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three_agents().save(tmp_path / "small.json")
    main(["report", str(tmp_path / "small.json"), "--out", str(tmp_path / "r.html")])
    assert (tmp_path / "r.html").exists()
    assert "r.html" in capsys.readouterr().out
    with pytest.raises(UsageError, match="name a file in a directory"):
        main(
            ["report", str(tmp_path / "small.json"), "--out", str(tmp_path / "nowhere" / "r.html")]
        )
    with pytest.raises(UsageError, match="there is no file"):
        main(["report", str(tmp_path / "nothing.json")])


class Visit:
    """What a headless browser made of a page: its document after all scripts, what the console
    said, and what was asked for."""

    def __init__(self, page: Path, profile: Path) -> None:
        assert BROWSER is not None
        log = profile / "net.json"
        flags = (
            "headless no-sandbox disable-gpu no-first-run disable-background-networking "
            "disable-component-update disable-sync"
        )
        done = subprocess.run(
            [
                *(
                    BROWSER,
                    *(f"--{flag}" for flag in flags.split()),
                    f"--user-data-dir={profile}",
                    f"--log-net-log={log}",
                ),
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                *(
                    "--enable-logging=stderr",
                    "--virtual-time-budget=2000",
                    "--dump-dom",
                    page.as_uri(),
                ),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.document = done.stdout
        self.console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
        # not the browser's own
        asked = (
            event for event in events if event.get("initiator", "not an origin") != "not an origin"
        )
        self.requests = sorted(
            {event["url"] for event in asked if not event["url"].startswith(("file:", "data:"))}
        )


@pytest.fixture
def visit(tmp_path: Path) -> Any:
    if BROWSER is None:
        pytest.skip("there is no Chromium or Chrome on this machine (make browser)")
    return lambda page: Visit(page, tmp_path)


def test_a_browser_shows_it_without_an_error_or_a_request(page: Path, visit: Any) -> None:
    seen = visit(page)
    assert "How to make it again" in seen.document
    assert seen.console == []
    assert seen.requests == []


def test_the_browser_test_would_see_errors_and_requests(tmp_path: Path, visit: Any) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/picture.png'><script>nothing.there()</script>")
    seen = visit(bad)
    assert any("nothing is not defined" in line for line in seen.console)
    assert seen.requests == ["http://127.0.0.1:9/picture.png"]


def test_tables_are_sorted_by_a_click_on_their_columns(
    page: Path, tmp_path: Path, visit: Any
) -> None:
    def order(column: int, clicks: int) -> list[str]:
        clicked = tmp_path / "clicked.html"
        click = (
            f"document.querySelectorAll('table.sortable thead button')[{column}].click();" * clicks
        )
        clicked.write_text(page.read_text().replace("</body>", f"<script>{click}</script></body>"))
        body = visit(clicked).document.split("<tbody>")[1].split("</tbody>")[0]
        return re.findall(r'<tr[^>]*><td data-value="([^"]+)"', body)

    assert order(2, 1) == ["oracle", "explorer", "mnm-p", "lstm", "rnn", "random"]
    assert order(2, 2) == ["random", "rnn", "lstm", "mnm-p", "explorer", "oracle"]
    assert order(0, 2) == ["explorer", "lstm", "mnm-p", "oracle", "random", "rnn"]
