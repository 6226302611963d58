"""bAbI: how stories are read, encoded and packed; that they are learned; and that a run goes on
after a kill. Stories made here."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from experiments import babi
from experiments.command_line import InterruptedRun, RunError, UsageError
from experiments.supervised import SequenceModel, Trainer, Training, build_core, find_agent

PEOPLE, PLACES = ("Mary", "John"), ("garden", "kitchen", "office")


def walks(rng: np.random.Generator, stories: int) -> str:
    """Stories in which people go to places; where one of them is, is asked twice in each."""
    lines = []
    for _ in range(stories):
        number, where = 1, {}
        for _ in range(2):
            for _ in range(int(rng.integers(1, 4))):
                person, place = rng.choice(PEOPLE), rng.choice(PLACES)
                where[person] = place
                lines.append(f"{number} {person} went to the {place}.")
                number += 1
            person = rng.choice(list(where))
            lines.append(f"{number} Where is {person}? \t{where[person]}\t1")
            number += 1
    return "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks: the one of the walks, and one with answers of several words."""
    path, rng = tmp_path / "data", np.random.default_rng(0)
    path.mkdir()
    (path / "qa1_single-supporting-fact_train.txt").write_text(walks(rng, 60))
    (path / "qa1_single-supporting-fact_test.txt").write_text(walks(rng, 20))
    lists = (
        "1 Mary got the milk.\n2 Mary got the apple there.\n3 What is Mary "
        "carrying?\tmilk,apple\t1 2\n"
    )
    (path / "qa8_lists-sets_train.txt").write_text(20 * lists)
    (path / "qa8_lists-sets_test.txt").write_text(lists)
    return path


def options(agent: str = "lstm", **changes: Any) -> Any:
    core = find_agent(agent)(hidden_size=changes.pop("hidden_size", 12))
    training = Training(learning_rate=changes.pop("learning_rate", Training.learning_rate))
    return babi.Options(
        **dict(core=core, training=training, tasks=(1, 8), rows=4, embedding_size=6) | changes
    )


def sequence_model(
    data: babi.Data, agent: str, width: int = 6
) -> tuple[SequenceModel, torch.Tensor]:
    features = babi.features(data.sentences)
    core = build_core(find_agent(agent)(hidden_size=8), width)
    return SequenceModel(
        babi.SentenceEncoder(features.shape[1] // 2, width), core, len(data.answers)
    ), features


def test_a_question_comes_with_the_sentences_of_its_story_before_it(tmp_path: Path) -> None:
    file = tmp_path / "qa1_x_train.txt"
    file.write_text(
        "1 Mary went home.\n2 Where is Mary? \thome\t1\n3 John left.\n4 Who left?\tJohn\t3\n"
        "1 The milk fell.\n2 What fell?\tmilk\t1\n"
    )
    mary, john, milk = ("mary", "went", "home"), ("john", "left"), ("the", "milk", "fell")
    assert list(babi.read(file)) == [
        ([mary, ("where", "is", "mary", "?")], "home"),
        ([mary, john, ("who", "left", "?")], "john"),
        ([milk, ("what", "fell", "?")], "milk"),
    ]


def test_tasks_are_read_together_and_several_words_are_one_answer(folder: Path) -> None:
    data = babi.load(folder, [1, 8])
    assert set(data.answers) == {*PLACES, "milk,apple"}
    assert np.bincount(data.train.tasks).tolist()[1::7] == [120, 20]
    assert np.bincount(data.test.tasks).tolist()[1::7] == [40, 1]
    story = data.test.sentences[data.test.ends[-1] - data.test.lengths[-1] :]
    assert [" ".join(data.sentences[i]) for i in story] == [
        "mary got the milk",
        "mary got the apple there",
        "what is mary carrying ?",
    ]


def test_files_of_a_task_add_up(folder: Path) -> None:
    (folder / "qa8_more_train.txt").write_text((folder / "qa8_lists-sets_train.txt").read_text())
    assert len(babi.load(folder, [8]).train.answers) == 40


@pytest.mark.parametrize(
    "line",
    ["Mary went home.", "1", "x Mary went home.", "1 Where is Mary?\t\t1", "2 It begins late."],
)
def test_a_line_in_another_format_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "qa1_x_train.txt"
    file.write_text(line + "\n")
    with pytest.raises(
        UsageError, match=r"qa1_x_train\.txt, line 1: must be a number, a sentence and"
    ):
        list(babi.read(file))


def test_a_task_without_a_file_is_named(folder: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"there is no qa3_\*train\.txt in .*: add one, or leave the task out with --tasks",
    ):
        babi.load(folder, [1, 3])


def test_sentences_are_position_weighted_sums_of_embeddings() -> None:
    sentences = [("a", "b", "a", "c"), ("c",)]
    encoder = babi.SentenceEncoder(words=3, width=5)
    E, d = encoder.embeddings, 5
    for sentence, encoded in zip(sentences, encoder(babi.features(sentences)), strict=True):
        J, wanted = len(sentence), torch.zeros(d)
        for j, word in enumerate(sentence, start=1):
            weights = torch.tensor(
                [(1 - j / J) - (k / d) * (1 - 2 * j / J) for k in range(1, d + 1)]
            )
            wanted = wanted + weights * E["abc".index(word)]
        torch.testing.assert_close(encoded, wanted)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_every_story_is_packed_once_and_whole(folder: Path, rows: int) -> None:
    stories = babi.load(folder, [1, 8]).train
    seen = []
    for packed in babi.pack(
        stories, np.random.default_rng(0).permutation(len(stories.answers)), rows
    ):
        assert packed.sentences.shape[1] <= rows
        assert len(packed.sentences) <= stories.lengths.max()
        for sentences, asked, starts in zip(
            packed.sentences.T, packed.asked.T, packed.starts.T, strict=True
        ):
            end = 0
            for t in np.flatnonzero(asked >= 0):
                story = asked[t]
                wanted = stories.sentences[
                    stories.ends[story] - stories.lengths[story] : stories.ends[story]
                ]
                assert sentences[end : t + 1].tolist() == wanted.tolist()
                assert starts[end] == (end > 0)
                assert not starts[end + 1 : t + 1].any()
                end = t + 1
                seen.append(story)
            assert (sentences[end:] == -1).all()
    assert sorted(seen) == list(range(len(stories.answers)))


def test_hardly_a_step_is_left_empty() -> None:
    lengths = np.random.default_rng(0).geometric(0.1, size=3000).clip(2, 80)
    zeros = np.zeros(3000, dtype=np.int64)
    stories = babi.Stories(np.zeros(lengths.sum(), dtype=np.int64), lengths.cumsum(), zeros, zeros)
    batches = list(babi.pack(stories, np.arange(3000), 8))
    assert lengths.sum() / sum(packed.sentences.size for packed in batches) > 0.95


@pytest.mark.parametrize("agent", ["mnm-p", "lstm", "gru"])
def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(folder: Path, agent: str) -> None:
    data = babi.load(folder, [1, 8])
    model, features = sequence_model(data, agent)
    (packed,) = babi.pack(data.test, np.arange(10), 100)
    alone = {
        story: model(next(babi.pack(data.test, np.array([story]), 1)).batch(data.test, features))[
            0
        ][0]
        for story in range(10)
    }
    for rows in (1, 4):
        for packed in babi.pack(data.test, np.arange(10), rows):
            logits, _ = model(packed.batch(data.test, features))
            for story, given in zip(packed.asked[packed.asked >= 0], logits, strict=True):
                torch.testing.assert_close(given, alone[int(story)], rtol=1e-4, atol=1e-5)


def test_empty_steps_do_not_count(folder: Path) -> None:
    data = babi.load(folder, [1, 8])
    model, features = sequence_model(data, "mnm-p")
    packed = next(babi.pack(data.test, np.arange(5), 3))
    batch = packed.batch(data.test, features)
    assert 0 < batch.counts.sum() < batch.counts.numel()
    longer = [
        np.concatenate([part, np.full_like(part[:4], fill)])
        for part, fill in zip(packed, (-1, -1, False), strict=True)
    ]
    for with_padding, without in zip(
        model(babi.Packed(*longer).batch(data.test, features)), model(batch), strict=True
    ):
        torch.testing.assert_close(with_padding, without)


def test_stories_are_learned_and_the_result_says_so_by_task(folder: Path, tmp_path: Path) -> None:
    (folder / "qa1_more_train.txt").write_text(walks(np.random.default_rng(1), 300))
    data = babi.load(folder, [1, 8])
    run = babi.Run(
        data, options(hidden_size=24, epochs=6, learning_rate=2e-2, rows=2, out=tmp_path / "run")
    )
    run.train()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    first, last = result["epochs_done"][0], result["epochs_done"][-1]
    assert last["errors"].keys() == {"1", "8"}
    assert last["mean_error"] < 0.1 < first["mean_error"]
    assert last["mean_error"] == pytest.approx(np.mean(list(last["errors"].values())))
    assert last["failed"] == sum(error > 0.05 for error in last["errors"].values())
    assert (result["agent"], result["rows"], result["questions"]) == ("lstm", 2, [740, 41])
    table = io.StringIO()
    babi.report(last, Console(file=table, width=80))
    assert "8 lists and sets" in table.getvalue()
    assert f"{last['mean_error']:.1%}" in table.getvalue()


def test_a_task_is_failed_with_more_than_five_percent_and_not_with_five(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = babi.load(folder, [1, 8])
    model, features = sequence_model(data, "lstm")
    stories = data.test._replace(answers=np.arange(len(data.test.answers)))
    for misses in (2, 3):  # of 40 questions

        def right(batch: Any, misses: int = misses) -> torch.Tensor:
            return batch.answers() >= misses

        monkeypatch.setattr(model, "right", right)
        error = babi.errors(model, stories, features, rows=4)["1"]
        assert error == misses / 40
        assert (error > babi.FAILED) == (misses == 3)


def until_killed(run: babi.Run, updates: int, batch: Any) -> float:
    """An update of a run, which saves its state and is killed after so many."""
    if run.trainer.updates == updates:
        run.save()
        raise KeyboardInterrupt
    return Trainer.update(run.trainer, batch)


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = babi.load(folder, [1, 8])
    whole = babi.Run(data, options("mnm-p", epochs=2, out=tmp_path / "whole"))
    whole.train()

    killed = options("mnm-p", epochs=2, out=tmp_path / "killed")
    per_epoch = whole.history[0]["updates"]
    for updates in (per_epoch - 2, per_epoch + 3):  # in the first epoch, and in the second
        run = babi.Run(data, killed)
        monkeypatch.setattr(run.trainer, "update", partial(until_killed, run, updates))
        with pytest.raises(KeyboardInterrupt):
            run.train()
    resumed = babi.Run(data, killed)
    assert resumed.trainer.updates == per_epoch + 3
    resumed.train()

    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    histories = [
        [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in run.history]
        for run in (whole, resumed)
    ]
    assert histories[0] == histories[1]


def test_who_stops_a_run_learns_how_it_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(run: babi.Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(babi.Run, "train", stopped)
    with pytest.raises(InterruptedRun, match="the same command goes on from the last checkpoint"):
        babi.main(
            [
                str(folder),
                "lstm",
                "--tasks",
                "1",
                "8",
                "--threads",
                "1",
                "--out",
                str(tmp_path / "run"),
            ]
        )


def test_the_run_of_other_settings_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    data = babi.load(folder, [1, 8])
    babi.Run(data, options(epochs=2, out=tmp_path / "run")).save()
    with pytest.raises(
        UsageError, match=r"a run with other settings \(epochs, rows\); give --out another name"
    ):
        babi.Run(data, options(epochs=3, rows=5, out=tmp_path / "run"))


def test_a_damaged_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK nothing")
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged .*: delete it to begin anew"):
        babi.Run(babi.load(folder, [8]), options(tasks=(8,), out=tmp_path / "run"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name a folder and an agent first"),
        (["/nowhere", "lstm"], "there is no folder /nowhere"),
        ([".", "lstm", "--tasks", "21"], "--tasks takes different numbers from 1 to 20, got 21"),
        ([".", "lstm", "--tasks", "1", "1"], "--tasks takes different numbers"),
        ([".", "nobody"], "unknown agent 'nobody'"),
    ],
)
def test_wrong_usage_is_said_in_words(args: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        babi.parse_options(args)


def test_the_command_trains_and_prints_the_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        "--tasks",
        "1",
        "8",
        "--epochs",
        "1",
        "--rows",
        "4",
        "--hidden-size",
        "8",
        "--threads",
        "1",
    ]
    babi.main([str(folder), "mnm-g", *small, "--out", str(tmp_path / "run")])
    assert "1 single supporting fact" in capsys.readouterr().out
