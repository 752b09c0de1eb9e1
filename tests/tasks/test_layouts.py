"""One way to tell how a file is laid out, for training, measuring and predicting."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from electra_jax.errors import UserError
from electra_jax.tasks.data import read_data
from electra_jax.tasks.describe import describe_task
from electra_jax.tasks.examples import Answer, QuestionExample, TaggedExample
from electra_jax.tasks.known import TASKS
from electra_jax.tasks.reading import read_examples, read_inputs
from tests.tasks.own_files import CHUNKS, QUESTIONS, TAGS, TEXTS, WHERE, squad, write

TAGGED = "New\tB-X\nYork\tI-X\n\nis\tO\n"


def words_of(examples: object) -> list[tuple[str, ...]]:
    return [example.words for example in examples if isinstance(example, TaggedExample)]  # type: ignore[attr-defined]


def test_questions_of_all_layouts_go_together(tmp_path: Path) -> None:
    """SQuAD's JSON, in one line or in many, records under three names, CSV; in any role, whatever was trained on."""
    record = {"id": "a", "question": "Where?", "context": "Normandy lies in France.", "answer": "France"}
    both = {name: record[name] for name in ("id", "question", "context")}
    files = {
        "squad.json": squad(WHERE),
        "many.json": json.dumps(json.loads(squad(WHERE)), indent=1),
        "record.json": json.dumps(record) + "\n",
        "records.jsonl": json.dumps(both | {"answers": {"text": ["France"], "answer_start": [17]}}) + "\n",
        "rows.csv": "id,question,context,answer\na,Where?,Normandy lies in France.,France\n",
    }
    paths = [write(tmp_path, files) / name for name in files]
    expected = QuestionExample("a", "Where?", "Normandy lies in France.", (Answer("France", 17),), False, "")
    tasks = [TASKS["squad1"], replace(QUESTIONS, label=None)]
    for train in paths:
        data = read_data(describe_task("question_answering", train, paths), ".")
        tasks.append(data.task)
        for examples in (data.train, *data.dev.values()):
            assert [example._replace(where="") for example in examples] == [expected]
    for task in tasks:
        for path in paths:
            (measured,), (asked,) = read_examples(task, path), read_inputs(task, path)
            assert measured._replace(where="") == expected
            assert asked._replace(where="") == expected._replace(answers=())
    for line in (files["squad.json"], files["records.jsonl"]):
        (piped,) = read_inputs(QUESTIONS, [line])
        assert piped._replace(where="") == expected._replace(answers=())


def test_what_looks_like_columns_is_not_tagged_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TAGGED, encoding="utf-8")
    for task in (TAGS, CHUNKS):
        with pytest.raises(UserError, match=r"a\.txt has 2 columns in every line.*--layout columns, or --layout lines"):
            list(read_inputs(task, path))
        assert words_of(read_inputs(task, path, layout="columns")) == [("New", "York"), ("is",)]
        assert len(list(read_inputs(task, path, layout="lines"))) == 3
        assert len(read_examples(task, path)) == 2
    for texts in ("New York\n", "New\nYork\n", "New York is\nbig .\n"):
        path.write_text(texts, encoding="utf-8")
        assert len(list(read_inputs(TAGS, path))) == texts.count("\n")


def test_a_layout_that_is_said_holds_whatever_the_name(tmp_path: Path) -> None:
    for name in ("a.tsv", "a.csv", "a.jsonl", "a"):
        path = write(tmp_path, {name: TAGGED}) / name
        assert len(read_examples(TAGS, path, layout="columns")) == 2
        assert words_of(read_inputs(TAGS, path, layout="columns")) == [("New", "York"), ("is",)]
        trained = read_data(describe_task("tagging", path, [path], layout="columns"), ".")
        assert words_of(trained.train) == words_of(trained.dev["dev"]) == [("New", "York"), ("is",)]
    assert len(read_examples(CHUNKS, tmp_path / "a.tsv")) == 2  # as the task has it
    assert len(list(read_inputs(CHUNKS, tmp_path / "a.tsv"))) == 2
    assert len(list(read_inputs(TAGS, TAGGED.splitlines(keepends=True), layout="columns"))) == 2
    path = write(tmp_path, {"a.dat": "text\tlabel\nx\t1\n"}) / "a.dat"
    assert len(read_examples(TEXTS, path, layout="table")) == 1
    path.write_text('{"text": "x", "label": 1}\n', encoding="utf-8")
    assert len(read_examples(TEXTS, path, layout="jsonl")) == 1
    with pytest.raises(UserError, match="--layout columns is for tagging, and texts is classification"):
        read_examples(TEXTS, path, layout="columns")


def test_words_stand_in_any_column_and_comments_between_tabs_are_passed_over(tmp_path: Path) -> None:
    sentences = "# text = New York # 1\n1\tNew\tPROPN\n2\tYork\tPROPN\n3\t#\tSYM\n\n1\tis\tAUX\n"
    path = write(tmp_path, {"a.conllu": sentences}) / "a.conllu"
    task = replace(TAGS, layout="columns", word_column=1)
    expected = [(("New", "York", "#"), ("PROPN", "PROPN", "SYM")), (("is",), ("AUX",))]
    assert [(e.words, e.tags) for e in read_examples(task, path) if isinstance(e, TaggedExample)] == expected
    assert words_of(read_inputs(task, path)) == [words for words, _ in expected]
    with pytest.raises(UserError, match=r"line 2 has 3 columns, and the tag is looked for in column -2"):
        read_examples(replace(task, tag_column=-2), path)
    with pytest.raises(UserError, match=r"line 2 has 3 columns, and the word is looked for in column 3"):
        list(read_inputs(replace(task, word_column=3), path))
    path.write_text("# # SYM\n5 CD NUM\n", encoding="utf-8")  # CoNLL-2000 has such words
    assert words_of(read_examples(TAGS, path)) == [("#", "5")]
