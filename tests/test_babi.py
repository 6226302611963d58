"""bAbI: how stories are read, encoded and streamed; that they are learned; and that a run goes on
after a kill. Stories made here."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from experiments import babi
from experiments.command_line import InterruptedRun, RunError, UsageError
from experiments.supervised import SequenceModel, Trainer, Training, build_core, find_agent
from studies import babi as study

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
        **dict(core=core, training=training, tasks=(1, 8), rows=4, steps=20, embedding_size=6)
        | changes
    )


def sequence_model(data: babi.Data, agent: str, width: int = 6) -> SequenceModel:
    core = build_core(find_agent(agent)(hidden_size=8), width)
    encoder = babi.SentenceEncoder(babi.Words.of(data.sentences), width)
    return SequenceModel(encoder, core, len(data.answers))


def test_a_question_is_a_sentence_with_an_answer(tmp_path: Path) -> None:
    file = tmp_path / "qa1_x_train.txt"
    file.write_text(
        "1 Mary went home.\n2 Where is Mary? \thome\t1\n3 John left.\n4 Who left?\tJohn\t3\n"
        "1 The milk fell.\n2 What fell?\tmilk\t1\n"
    )
    mary, john, milk = ("mary", "went", "home"), ("john", "left"), ("the", "milk", "fell")
    assert list(babi.read(file)) == [
        [
            (mary, None),
            (("where", "is", "mary", "?"), "home"),
            (john, None),
            (("who", "left", "?"), "john"),
        ],
        [(milk, None), (("what", "fell", "?"), "milk")],
    ]


def told(data: babi.Data, stories: babi.Stories) -> list[list[tuple[str, str]]]:
    """The stories in words: each step's sentence, and its answer."""
    words = [" ".join(sentence) for sentence in data.sentences] + [""]
    steps = [
        (words[sentence], data.answers[answer] if answer >= 0 else "")
        for sentence, answer in zip(stories.sentences, stories.answers, strict=True)
    ]
    assert stories.ends[-1] == len(steps)
    return [
        steps[end - length : end] for end, length in zip(stories.ends, stories.lengths, strict=True)
    ]


def test_tasks_are_read_together_and_several_words_are_one_answer(folder: Path) -> None:
    data = babi.load(folder, [1, 8])
    assert set(data.answers) == {*PLACES, "milk,apple"}
    assert np.bincount(data.train.tasks).tolist()[1::7] == [60, 20]
    assert np.bincount(data.test.tasks).tolist()[1::7] == [20, 1]
    assert (data.train.n_questions, data.test.n_questions) == (140, 41)
    assert told(data, data.test)[-1] == [
        ("mary got the milk", ""),
        ("mary got the apple there", ""),
        ("what is mary carrying ?", "milk,apple"),
    ]


def test_a_question_alone_comes_after_the_sentences_of_its_story(folder: Path) -> None:
    data = babi.load(folder, [1, 8])
    wanted = []
    for story in told(data, data.test):
        before: list[tuple[str, str]] = []
        for step in story:
            if step[1]:
                wanted.append([*before, step])
            else:
                before.append(step)
    alone = data.test.told_again("alone")
    assert told(data, alone) == wanted
    assert alone.tasks.tolist() == 40 * [1] + [8]


@given(st.lists(st.text("sq", min_size=1, max_size=9).map(lambda kinds: f"{kinds}q"), min_size=1))
def test_no_question_apart_follows_another_and_each_is_asked_once(kinds: list[str]) -> None:
    asked = np.array([kind == "q" for story in kinds for kind in story])
    numbers = np.arange(len(asked))
    lengths = np.array([len(story) for story in kinds])
    stories = babi.Stories(numbers, np.where(asked, numbers, -1), lengths, np.arange(len(kinds)))
    apart = stories.told_again("apart")
    assert sorted(apart.answers[apart.answers >= 0]) == numbers[asked].tolist()
    begins = stories.ends - stories.lengths
    of_story = np.repeat(np.arange(len(kinds)), lengths)
    for end, length, task in zip(apart.ends, apart.lengths, apart.tasks, strict=True):
        steps = apart.sentences[end - length : end]
        questions = asked[steps]
        assert questions[-1]
        assert not (questions[1:] & questions[:-1]).any()
        assert set(of_story[steps]) == {task}
        before = numbers[begins[task] : steps[-1]]
        assert steps[~questions].tolist() == before[~asked[before]].tolist()


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("sentences", [0, 2])
@pytest.mark.parametrize("questions", [0, 1, 3])
def test_an_answer_is_due_after_the_thinking_steps(
    folder: Path, questions: int, sentences: int, repeat: bool
) -> None:
    data = babi.load(folder, [1, 8])

    def steps(sentence: str, answer: str) -> list[tuple[str, str]]:
        further = (questions if answer else sentences) * [sentence if repeat else ""]
        shown = [sentence, *further]
        return list(zip(shown, [*("" for _ in further), answer], strict=True))

    wanted = [
        [step for sentence, answer in story for step in steps(sentence, answer)]
        for story in told(data, data.test)
    ]
    assert told(data, data.test.with_thinking_steps(questions, sentences, repeat)) == wanted


def test_names_are_permuted_within_a_story_with_its_answers(folder: Path) -> None:
    data, rng = babi.load(folder, [1, 8]), np.random.default_rng(0)
    words = babi.Words.of(data.sentences)
    stories = data.train.with_thinking_steps(1)
    now, numbers = babi.renamed(stories, words, data.answers, rng)
    assert now.lengths.tolist() == stories.lengths.tolist()
    text = [" ".join(words.vocabulary[n - 1] for n in row if n) for row in numbers]
    renamed = told(data._replace(sentences=[tuple(row.split()) for row in text[:-1]]), now)
    for before, story in zip(told(data, stories), renamed, strict=True):
        where: dict[str, str] = {}
        for i, (sentence, answer) in enumerate(story):
            person, _, place = sentence.partition(" went to the ")
            if place:
                where[person] = place
            elif answer and "," not in answer:
                assert where[story[i - 1][0].split()[2]] == answer
        if "carrying" in before[2][0]:  # the apple and the milk, in this order, is no answer
            assert story == before
    places = [[place for _, place in story if place] for story in renamed]
    assert places != [[place for _, place in story if place] for story in told(data, stories)]


def test_names_that_an_answer_depends_on_stay() -> None:
    """Whoever is hungry goes to the kitchen (task 20), but whoever: people are renamed."""
    sentences = [("john", "is", "hungry"), ("sumit", "is", "tired"), ("to", "the", "kitchen")]
    stories = babi.Stories(
        sentences=np.tile([0, 1, 2], 50),
        answers=np.tile([-1, -1, 0], 50),
        lengths=np.full(50, 3),
        tasks=np.full(50, 20),
    )
    words = babi.Words.of(sentences)
    now, numbers = babi.renamed(stories, words, ["kitchen"], np.random.default_rng(0))
    assert (now.answers == stories.answers).all()
    told = {tuple(words.vocabulary[n - 1] for n in row) for row in numbers[:-1]}
    assert told == {*sentences, ("sumit", "is", "hungry"), ("john", "is", "tired")}


def test_files_of_a_task_add_up(folder: Path) -> None:
    (folder / "qa8_more_train.txt").write_text((folder / "qa8_lists-sets_train.txt").read_text())
    assert babi.load(folder, [8]).train.n_questions == 40


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


@pytest.mark.parametrize("positions", get_args(babi.Positions))
def test_sentences_are_position_weighted_sums_of_embeddings(positions: babi.Positions) -> None:
    sentences = [("a", "b", "a", "c"), ("c",)]
    encoder = babi.SentenceEncoder(babi.Words.of(sentences), 5, positions)
    for number, sentence in enumerate(sentences):
        wanted = torch.zeros(5)
        for weights, word in zip(encoder.positions, sentence, strict=False):
            wanted = wanted + weights * encoder.embeddings.weight[1 + "abc".index(word)]
        torch.testing.assert_close(encoder(torch.tensor([[number]]))[0, 0], wanted)
    assert (encoder(torch.tensor([[-1]])) == 0).all()  # a thinking step


def test_ramps_are_the_weights_of_sukhbaatar_et_al() -> None:
    d, J = 5, 4
    encoder = babi.SentenceEncoder(babi.Words.of([tuple("abcd")]), d, "ramps")
    wanted = [
        [(1 - j / J) - (k / d) * (1 - 2 * j / J) for k in range(1, d + 1)] for j in range(1, J + 1)
    ]
    torch.testing.assert_close(encoder.positions.data, torch.tensor(wanted))


def test_masks_and_signs_tell_all_positions_apart_and_ramps_only_two() -> None:
    torch.manual_seed(0)
    words = babi.Words.of([tuple("abcdefgh")])
    rank = {
        positions: int(
            torch.linalg.matrix_rank(babi.SentenceEncoder(words, 100, positions).positions)
        )
        for positions in get_args(babi.Positions)
    }
    assert rank == {"masks": 8, "signs": 8, "ramps": 2}


def test_a_word_resembles_itself_at_another_position_under_masks_but_not_under_signs() -> None:
    torch.manual_seed(0)
    words = babi.Words.of([tuple("abcdefgh")])
    for positions, wanted in (("masks", 0.5), ("signs", 0.0)):
        weights = babi.SentenceEncoder(words, 1_000, positions).positions.data
        alike = torch.nn.functional.cosine_similarity(weights[:, None], weights[None], dim=-1)
        mean = alike.triu(1).sum() / (8 * 7 / 2)
        torch.testing.assert_close(mean, torch.tensor(wanted), atol=0.03, rtol=0)


@pytest.mark.parametrize("learned", [True, False])
def test_weights_of_positions_are_learned_where_asked_for(folder: Path, learned: bool) -> None:
    run = babi.Run(
        babi.load(folder, [1, 8]),
        options(learned_positions=learned, epochs=1, out=folder / "run"),
    )
    encoder = run.model.encoder[0]  # type: ignore[index]
    embeddings, positions = encoder.embeddings.weight.clone(), encoder.positions.clone()
    run.train()
    assert not torch.equal(encoder.embeddings.weight, embeddings)
    assert torch.equal(encoder.positions, positions) != learned
    assert (encoder.embeddings.weight[0] == 0).all()


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("steps", [1, 5, 1000])
def test_every_story_is_told_once_and_whole(folder: Path, rows: int, steps: int) -> None:
    stories = babi.load(folder, [1, 8]).train
    order = np.random.default_rng(0).permutation(len(stories.tasks))
    batches = list(babi.stream(stories, order, rows, steps))
    assert all(len(batch) <= 2 * steps and batch.shape[1] == rows for batch in batches)
    starts = [babi.batch(stories, batch).starts.numpy() for batch in batches]
    seen = []
    for row, begins in zip(np.concatenate(batches).T, np.concatenate(starts).T, strict=True):
        t = 0
        while t < len(row) and row[t] >= 0:
            story = int(np.searchsorted(stories.ends, row[t], side="right"))
            length = stories.lengths[story]
            end = stories.ends[story]
            assert row[t : t + length].tolist() == list(range(end - length, end))
            assert begins[t : t + length].tolist() == [True] + (length - 1) * [False]
            seen.append(story)
            t += length
        assert (row[t:] == -1).all()
        assert not begins[t:].any()
    assert sorted(seen) == list(range(len(stories.tasks)))


def test_hardly_a_step_is_left_empty() -> None:
    lengths = np.random.default_rng(0).geometric(0.1, size=3000).clip(2, 80)
    nothing = np.zeros(lengths.sum(), dtype=np.int64)
    stories = babi.Stories(nothing, nothing, lengths, np.zeros(3000, dtype=np.int64))
    batches = list(babi.stream(stories, np.arange(3000), 8, 50))
    assert lengths.sum() / sum(batch.size for batch in batches) > 0.98


def answered(
    model: SequenceModel, stories: babi.Stories, order: Any, rows: int, steps: int
) -> dict[int, torch.Tensor]:
    """The logits at each step that asks, by the number of the step."""
    state, logits = None, {}
    for numbers in babi.stream(stories, np.asarray(order), rows, steps):
        batch = babi.batch(stories, numbers, state)
        given, _, state = model(batch)
        logits |= dict(zip(numbers[batch.targets.numpy() >= 0].tolist(), given, strict=True))
    return logits


@pytest.mark.parametrize("agent", ["mnm-p", "lstm", "gru"])
def test_an_answer_does_not_depend_on_how_stories_are_batched(folder: Path, agent: str) -> None:
    data = babi.load(folder, [1, 8])
    stories = data.test.with_thinking_steps(2)
    model = sequence_model(data, agent)
    alone: dict[int, torch.Tensor] = {}
    for story in range(10):
        alone |= answered(model, stories, [story], rows=1, steps=1000)
    for rows, steps in ((1, 1000), (4, 1000), (4, 7), (20, 3)):
        logits = answered(model, stories, range(10), rows, steps)
        assert logits.keys() == alone.keys()
        for step, answer in logits.items():
            torch.testing.assert_close(answer, alone[step], rtol=1e-4, atol=1e-5)


def test_empty_steps_do_not_count(folder: Path) -> None:
    data = babi.load(folder, [1, 8])
    model = sequence_model(data, "mnm-p")
    (numbers,) = babi.stream(data.test, np.arange(5), 3, 1000)
    batch = babi.batch(data.test, numbers)
    assert 0 < batch.counts.sum() < batch.counts.numel()
    longer = np.concatenate([numbers, np.full_like(numbers[:4], -1)])
    with_padding, without = model(babi.batch(data.test, longer)), model(batch)
    torch.testing.assert_close(with_padding[:2], without[:2])


def test_a_batch_without_a_question_is_learned_from_by_its_meta_loss_alone(folder: Path) -> None:
    data = babi.load(folder, [1, 8])
    run = babi.Run(data, options("mnm-p", out=folder / "run"))
    numbers = np.arange(1)[:, None]
    assert data.train.answers[0] == -1
    assert run.trainer.update(babi.batch(data.train, numbers)) == 0


def test_dropout_is_for_training_alone(folder: Path) -> None:
    data = babi.load(folder, [1, 8])
    run = babi.Run(data, options(dropout=0.5, epochs=1, out=folder / "run"))
    run.train()
    rates = [
        babi.errors(run.model, run.test_stories, run.options.rows, run.options.steps)
        for _ in range(2)
    ]
    assert rates[0] == rates[1] == run.history[-1]["errors"]
    run.model.train()
    (numbers,) = babi.stream(data.test, np.arange(5), 3, 1000)
    first, again = (run.model(babi.batch(data.test, numbers)).logits for _ in range(2))
    assert not torch.equal(first, again)


def test_the_step_size_rises_and_falls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = babi.Run(
        babi.load(folder, [1, 8]),
        options(epochs=4, warm_up=10, learning_rate=0.5, out=folder / "run"),
    )
    sizes = []

    def update(batch: Any) -> float:
        sizes.append(run.trainer.optimizer.param_groups[0]["lr"])
        run.trainer.updates += 1
        return 0.0

    monkeypatch.setattr(run.trainer, "update", update)
    run.train()
    top = int(np.argmax(sizes))
    assert sizes[0] == pytest.approx(0.05)
    assert top == 9
    assert (np.diff(sizes[: top + 1]) > 0).all()
    assert (np.diff(sizes[top:]) < 0).all()
    assert sizes[-1] < 0.5 * 4 / len(sizes)


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
    assert last["mean_error"] < 0.05 < first["mean_error"]
    assert last["mean_error"] == pytest.approx(np.mean(list(last["errors"].values())))
    assert last["failed"] == sum(error > 0.05 for error in last["errors"].values())
    assert (result["agent"], result["rows"], result["n_questions"]) == ("lstm", 2, [740, 41])
    table = io.StringIO()
    babi.report(last, Console(file=table, width=80))
    assert "8 lists and sets" in table.getvalue()
    assert f"{last['mean_error']:.1%}" in table.getvalue()


def test_a_task_is_failed_with_more_than_five_percent_and_not_with_five(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = babi.load(folder, [1, 8])
    model = sequence_model(data, "lstm")
    for misses in (2, 3):  # of 40 questions

        def right(batch: Any, misses: int = misses) -> Any:
            return torch.arange(len(batch.answers())) >= misses, None

        monkeypatch.setattr(model, "right", right)
        error = babi.errors(model, babi.load(folder, [1]).test, rows=1, steps=1000)["1"]
        assert error == misses / 40
        assert (error > babi.FAILED) == (misses == 3)


def until_killed(run: babi.Run, updates: int, batch: Any) -> float:
    """An update of a run that is killed after so many."""
    if run.trainer.updates == updates:
        raise KeyboardInterrupt
    return Trainer.update(run.trainer, batch)


@pytest.mark.parametrize("agent", ["mnm-p", "lstm"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str
) -> None:
    data = babi.load(folder, [1, 8])
    how: dict[str, Any] = dict(
        epochs=3,
        thinking_steps=1,
        sentence_steps=1,
        repeat=True,
        dropout=0.1,
        weight_decay=0.01,
        rename=True,
    )
    whole = babi.Run(data, options(agent, out=tmp_path / "whole", **how))
    whole.train()

    killed = options(agent, out=tmp_path / "killed", **how)
    per_epoch = whole.history[0]["updates"]
    for updates in (per_epoch - 2, per_epoch + 3):  # in the first epoch, and in the second
        run = babi.Run(data, killed)
        monkeypatch.setattr(run.trainer, "update", partial(until_killed, run, updates))
        with pytest.raises(KeyboardInterrupt):
            run.train()
    resumed = babi.Run(data, killed)
    assert resumed.trainer.updates == per_epoch
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
    with pytest.raises(InterruptedRun, match="the same command goes on from the last epoch"):
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
        ([".", "lstm", "--dropout", "1"], "--dropout must be from 0 to below 1"),
        ([".", "lstm", "--weight-decay", "-1"], "--weight-decay at least 0"),
        ([".", "lstm", "--thinking-steps", "-1"], "thinking-steps"),
        ([".", "lstm", "--repeat"], "--repeat needs further steps"),
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


def test_the_seeds_of_an_agent_make_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for seed, errors in enumerate([[0.5, 0.2, 0.1], [0.3, 0.4]]):  # the second was stopped
        epochs = [{"epoch": i + 1, "mean_error": error} for i, error in enumerate(errors)]
        files.append(tmp_path / f"{seed}.json")
        files[-1].write_text(json.dumps({"agent": "mnm-p", "epochs_done": epochs}))
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(study, "draw_lines", lambda axes, lines, *_, **__: drawn.update(lines))
    study.main(tuple(files), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()
    expected = [[1, 2], [0.4, 0.3], [0.3, 0.2], [0.5, 0.4]]
    np.testing.assert_allclose(drawn["mnm-p"], expected)


def test_what_is_no_result_is_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("[]")
    with pytest.raises(UsageError, match=r"notes.json is not the result of a run"):
        study.main((tmp_path / "notes.json",), tmp_path / "curves.png")
    with pytest.raises(UsageError, match="at least one run"):
        study.main((), tmp_path / "curves.png")
