"""The known tasks in their official layouts, task files, one's own tasks, and what is said where files are missing."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from electra_jax.errors import UserError
from electra_jax.settings import to_json
from electra_jax.tasks.data import read_data
from electra_jax.tasks.describe import describe_task
from electra_jax.tasks.examples import Answer, Example, QuestionExample, TaggedExample, TextExample
from electra_jax.tasks.known import TASKS, find_files, find_task
from electra_jax.tasks.task import Task
from tests.tasks.own_files import WHERE, squad, write

BOM = "\ufeff"
MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2"
)
# Of MNLI's held-out files: five people's labels before the one that counts.
MNLI_DEV = [
    f"{MNLI}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
    "0\t1\t1c\tslate\t( A )\t( B )\t(A)\t(B)\tHe left.\tHe stayed.\tneutral\tcontradiction\tcontradiction\tneutral\t"
    "contradiction\tcontradiction",
]
# A header (or none) and rows as the benchmark has them, and the text, the pair and the label of the last row.
GLUE: dict[str, tuple[list[str], tuple[str, str | None, str | float]]] = {
    "cola": (["gj04\t1\t\tThey sailed.", 'gj04\t0\t*\tThey "drank the pub.'], ('They "drank the pub.', None, "0")),
    "sst2": (["sentence\tlabel", "dull \t0", '" good \t1'], ('" good ', None, "1")),
    "mrpc": (
        [f"{BOM}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t1\t2\tNo .\tYes .", '1\t3\t4\t" A .\tB .'],
        ('" A .', "B .", "1"),
    ),
    "stsb": (
        [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            "0\tn\tf\t2012\t1\tnone\tnone\tA.\tB.\t0.000",
            "1\tn\tf\t2012\t2\tnone\tnone\tA cat.\tThe cat.\t3.800",
        ],
        ("A cat.", "The cat.", 3.8),
    ),
    "qqp": (["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tWho?\tWhy?\t0"], ("Who?", "Why?", "0")),
    "mnli": (
        [
            f"{MNLI}\tlabel1\tgold_label",
            "0\t1\t1n\tfiction\t( A )\t( B )\t(A)\t(B)\tIt rains.\tIt is wet.\tneutral\tentailment",
        ],
        ("It rains.", "It is wet.", "entailment"),
    ),
    "qnli": (["index\tquestion\tsentence\tlabel", "0\tWho?\tHe.\tnot_entailment"], ("Who?", "He.", "not_entailment")),
    "rte": (["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tentailment"], ("A.", "B.", "entailment")),
    "wnli": (["index\tsentence1\tsentence2\tlabel", "0\tHe hid it.\tIt hid.\t1"], ("He hid it.", "It hid.", "1")),
}
CONLL = (
    "-DOCSTART- -X- -X- O\n\nU.N. NNP I-NP I-ORG\nin IN I-PP O\nRome NNP I-NP I-LOC\nParis NNP I-NP B-LOC\n\n. . O O\n"
)
CHUNKS = "He PRP B-NP\nreckons VBZ B-VP\nthe DT B-NP\ndeficit NN I-NP\n. . O\n"


NOWHERE = {"id": "b", "question": "When?", "answers": [], "is_impossible": True}


@pytest.mark.parametrize("name", sorted(GLUE))
def test_glue_is_read_as_it_is_published(tmp_path: Path, name: str) -> None:
    lines, expected = GLUE[name]
    task = TASKS[name]
    for file in (task.train, *task.dev):
        held = MNLI_DEV if file.startswith("dev_m") else lines
        (tmp_path / file).write_text("\n".join(held) + "\n", encoding="utf-8")
    data = read_data(task, str(tmp_path))
    assert len(data.train) == len(lines) - task.header
    last = data.train[-1]
    assert isinstance(last, TextExample)
    assert (last.text, last.pair, last.label) == expected
    assert last.where == f"{tmp_path / 'train.tsv'}, line {len(lines)}"
    if name == "mnli":
        expected = ("He left.", "He stayed.", "contradiction")
    for examples in data.dev.values():
        assert isinstance(examples[-1], TextExample)
        assert (examples[-1].text, examples[-1].pair, examples[-1].label) == expected
    assert data.task == task
    assert list(data.dev) == (["dev_matched", "dev_mismatched"] if name == "mnli" else ["dev"])
    assert not data.test


@pytest.mark.parametrize(
    "names", [("eng.train", "eng.testa", "eng.testb"), ("train.txt", "valid.txt", "test.txt")], ids=["conll", "common"]
)
def test_conll_is_read_and_turned_into_iob2(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = read_data(TASKS["conll2003"], str(write(tmp_path, dict.fromkeys(names, CONLL))))
    where = f"{tmp_path / names[0]}, line "
    assert data.train == [
        TaggedExample(("U.N.", "in", "Rome", "Paris"), ("B-ORG", "O", "B-LOC", "B-LOC"), where + "3"),
        TaggedExample((".",), ("O",), where + "8"),
    ]
    assert data.task.labels == ("O", "B-LOC", "B-ORG", "I-LOC", "I-ORG")
    assert list(data.dev) == ["dev"]
    assert list(data.test) == ["test"]


def test_chunks_are_read_and_a_type_has_both_tags(tmp_path: Path) -> None:
    goes_on = CHUNKS.replace("VBZ B-VP\n", "VBZ B-VP\nto TO I-VP\n")  # I-VP is not in the training file
    data = read_data(TASKS["chunking"], str(write(tmp_path, {"train.txt": CHUNKS, "test.txt": goes_on})))
    assert data.task.labels == ("O", "B-NP", "B-VP", "I-NP", "I-VP")
    (example,) = data.dev["dev"]
    assert isinstance(example, TaggedExample)
    assert example.tags == ("B-NP", "B-VP", "I-VP", "B-NP", "I-NP", "O")


def test_squad_is_read_in_both_versions(tmp_path: Path) -> None:
    files = {"train-v2.0-sample.json": squad(WHERE, NOWHERE), "dev-v2.0.json": squad(WHERE, NOWHERE)}
    told: list[str] = []
    data = read_data(TASKS["squad2"], str(write(tmp_path, files)), report=told.append)
    assert told == [f"{tmp_path / 'train-v2.0-sample.json'} stands in for train-v2.0.json"]
    where = f"{tmp_path / 'dev-v2.0.json'}, question "
    context = "Normandy lies in France."
    assert data.dev["dev"] == [
        QuestionExample("a", "Where?", context, (Answer("France", 17),), False, where + "a"),
        QuestionExample("b", "When?", context, (), True, where + "b"),
    ]
    assert len(data.train) == 2
    with pytest.raises(UserError, match=r"question b has no answer, and squad1 has an answer to every question"):
        read_data(TASKS["squad1"], str(tmp_path))


def test_answerability_is_not_learned_where_every_question_has_an_answer(tmp_path: Path) -> None:
    files = {"train-v1.1.json": squad(WHERE), "dev-v2.0.json": squad(WHERE, NOWHERE)}
    with pytest.raises(UserError, match=r"every question of .*train-v1.1.json has an answer.*squad1"):
        read_data(TASKS["squad2"], str(write(tmp_path, files)))


def test_the_main_squad_metric_is_f1() -> None:
    assert {TASKS[name].metrics[0] for name in ("squad1", "squad2", "conll2003", "chunking")} == {"f1"}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_comes_back_from_its_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "task.json"
    path.write_text(json.dumps(to_json(TASKS[name])), encoding="utf-8")
    assert find_task(str(path)) == find_task(name) == TASKS[name]


def test_a_name_may_be_written_otherwise() -> None:
    assert find_task("SST-2") is TASKS["sst2"]
    assert find_task("CoNLL_2003") is TASKS["conll2003"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{\n'name': 1}", r"own\.json, line 2 is not JSON"),
        ("[" * 100_000, r"own\.json is not JSON that can be read"),
        ('{"name": "x"}', r"own\.json: unknown settings \[\], missing settings \['kind'\]"),
        (
            '{"name": "x", "kind": "tagging", "layout": "columns", "metrics": ["bleu"]}',
            r"own\.json: .*no metric 'bleu'",
        ),
        ("\xff", r"own\.json, line 1 is not UTF-8"),
    ],
)
def test_a_bad_task_file_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "own.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=sentence) as caught:
        find_task(str(path))
    assert "\n" not in str(caught.value)


def test_a_setting_of_another_type_is_refused_and_whole_numbers_pass(tmp_path: Path) -> None:
    # In a process of its own: the shape checks of this one would raise first.
    values = to_json(TASKS["stsb"]) | {"low": 0, "high": 5, "epochs": 3}
    (tmp_path / "good.json").write_text(json.dumps(values), encoding="utf-8")
    (tmp_path / "bad.json").write_text(json.dumps(values | {"kind": "guess"}), encoding="utf-8")
    program = (
        "import sys; from electra_jax.tasks.known import find_task\n"
        "assert find_task('good.json').high == 5\n"
        "try: find_task('bad.json')\n"
        "except Exception as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, env=_environment()
    )
    assert re.fullmatch(r"bad\.json: Task\.kind is 'guess', which is not one of [^\n]*\n", run.stdout)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_an_unknown_task_has_its_neighbours_named() -> None:
    with pytest.raises(UserError, match=r"no task 'sst': choose .*sst2"):
        find_task("sst")
    with pytest.raises(UserError, match=r"no task 'zzz': choose chunking or cola or"):
        find_task("zzz")
    with pytest.raises(UserError, match=r"there is no file .*absent\.json"):
        find_task("absent.json")


def test_a_missing_file_is_named_with_what_there_is(tmp_path: Path) -> None:
    write(tmp_path, {"train.tsv": "x", "dev_matched.tsv": "x"})
    with pytest.raises(UserError, match=r"has no dev_mismatched\.tsv, which mnli needs, but .*'dev_matched\.tsv'"):
        find_files(TASKS["mnli"], tmp_path)
    with pytest.raises(UserError, match=r"there is no folder .*nowhere: name the folder that holds cola's files"):
        find_files(TASKS["cola"], tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no eng\.train and no eng\.testa"):
        find_files(TASKS["conll2003"], tmp_path)


def test_what_is_not_trained_needs_no_training_file(tmp_path: Path) -> None:
    write(tmp_path, {"dev.tsv": "x"})
    with pytest.raises(UserError, match=r"no train\.tsv"):
        find_files(TASKS["rte"], tmp_path)
    files = find_files(TASKS["rte"], tmp_path, training=False)
    assert files.train is None
    assert files.dev == {"dev": tmp_path / "dev.tsv"}


def test_the_official_name_comes_before_others_and_two_others_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train.jsonl": "x", "dev.csv": "x", "train.md": "x"})
    files = find_files(TASKS["rte"], tmp_path)
    assert files == (tmp_path / "train.jsonl", {"dev": tmp_path / "dev.csv"}, {})
    write(tmp_path, {"train.csv": "x"})
    with pytest.raises(UserError, match=r"has no train\.tsv but 'train\.csv', 'train\.jsonl': rename"):
        find_files(TASKS["rte"], tmp_path)
    write(tmp_path, {"train.tsv": "x"})
    assert find_files(TASKS["rte"], tmp_path).train == tmp_path / "train.tsv"


def test_a_label_that_training_does_not_have_is_refused(tmp_path: Path) -> None:
    task = replace(TASKS["rte"], labels=())
    train = "sentence1\tsentence2\tlabel\nA\tB\tyes\nA\tB\tno\n"
    write(tmp_path, {"train.tsv": train, "dev.tsv": train + "A\tB\tmaybe\n"})
    with pytest.raises(UserError, match=r"dev\.tsv, line 4: the label 'maybe' is not among rte's, 'no', 'yes'"):
        read_data(task, str(tmp_path))
    said: list[str] = []
    data = read_data(task, str(tmp_path), skip_bad=True, report=said.append)
    assert data.task.labels == ("no", "yes")
    assert len(data.dev["dev"]) == 2
    (sentence,) = said
    assert "dev.tsv: 1 place left out, the first: " in sentence
    assert "line 4" in sentence


def test_one_label_is_too_few(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(("train.tsv", "dev.tsv"), "sentence\tlabel\nA\tyes\n"))
    with pytest.raises(UserError, match=r"every training example has the label 'yes'"):
        read_data(replace(TASKS["sst2"], labels=()), str(tmp_path))


OWN: list[tuple[str, dict[str, object], str, str, Example]] = [
    (
        "classification",
        {"text": "review", "label": "stars"},
        "a.csv",
        'review,stars\n"good, very\ngood",5\nbad,1\n',
        TextExample("good, very\ngood", None, "5", "{}, line 2"),
    ),
    (
        "classification",
        {},
        "a.jsonl",
        '{"text": "a", "label": true}\n\n{"text": "b", "label": false}\n',
        TextExample("a", None, "true", "{}, line 1"),
    ),
    (
        "regression",
        {"pair": "other"},
        "a.tsv",
        "text\tother\tscore\na\tb\t-2\nc\td\t7.5\n",
        TextExample("a", "b", -2.0, "{}, line 2"),
    ),
    (
        "tagging",
        {"scheme": "iob2"},
        "a.jsonl",
        '{"id": 7, "words": ["New", "York"], "tags": ["B-LOC", "I-LOC"]}\n',
        TaggedExample(("New", "York"), ("B-LOC", "I-LOC"), "{}, line 1", "7"),
    ),
    ("tagging", {}, "a.tsv", "words\ttags\na b\tX Y\n", TaggedExample(("a", "b"), ("X", "Y"), "{}, line 2")),
    ("tagging", {}, "a.conll", "a\tX\nb\tY\n", TaggedExample(("a", "b"), ("X", "Y"), "{}, line 1")),
    (
        "question_answering",
        {},
        "a.csv",
        "id,question,context,answer,answer_start\nq,Who?,He or he,he,6\n",
        QuestionExample("q", "Who?", "He or he", (Answer("he", 6),), False, "{}, line 2"),
    ),
    (
        "question_answering",
        {"answerability": True},
        "a.jsonl",
        '{"question": "Who?", "context": "A man", "answer": ""}\n',
        QuestionExample("{}, line 1", "Who?", "A man", (), True, "{}, line 1"),
    ),
    (
        "question_answering",
        {},
        "a.jsonl",
        '{"id": "q", "question": "Who?", "context": "A man", "answers": {"text": ["man"], "answer_start": [2]}}\n',
        QuestionExample("q", "Who?", "A man", (Answer("man", 2),), False, "{}, line 1"),
    ),
    (
        "question_answering",
        {},
        "a.json",
        squad(WHERE),
        QuestionExample(
            "a", "Where?", "Normandy lies in France.", (Answer("France", 17),), False, "{}, question a"
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "columns", "name", "text", "expected"), OWN)
def test_ones_own_data(
    tmp_path: Path, kind: str, columns: dict[str, object], name: str, text: str, expected: Example
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    task = describe_task(kind, path, [path], [path], **columns)  # type: ignore[arg-type]
    data = read_data(task, ".")
    fields = {k: v.format(path) for k, v in expected._asdict().items() if k in ("id", "where") and v is not None}
    assert data.train[0] == expected._replace(**fields)
    assert data.dev["dev"] == data.test["test"] == data.train
    if kind == "regression":
        assert (data.task.low, data.task.high) == (-2.0, 7.5)


def test_scores_that_are_all_the_same_have_no_range(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.tsv": "text\tscore\na\t1\nb\t1\n"}) / "a.tsv"
    with pytest.raises(UserError, match=r"a\.tsv: every score is 1: give low and high"):
        read_data(describe_task("regression", path, [path]), ".")
    assert read_data(describe_task("regression", path, [path], low=0.0, high=2.0), ".").task.scale == (0.0, 2.0)


def test_a_file_of_no_known_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*a\.xlsx"):
        describe_task("classification", tmp_path / "a.xlsx", [tmp_path / "a.xlsx"])
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(UserError, match=r"a\.xlsx is none of \.tsv, \.csv"):
        describe_task("classification", tmp_path / "a.xlsx", [tmp_path / "a.xlsx"])


def test_the_names_of_held_out_files(tmp_path: Path) -> None:
    task = Task(
        name="x",
        kind="classification",
        layout="table",
        metrics=("f1",),
        dev=("a.tsv", "b.tsv"),
        test=("t.csv", "t.tsv"),
    )
    write(tmp_path, dict.fromkeys(("train.tsv", "a.tsv", "b.tsv", "t.csv", "t.tsv"), "x"))
    files = find_files(task, tmp_path)
    assert list(files.dev) == ["a", "b"]
    assert list(files.test) == ["t.csv", "t.tsv"]


@pytest.mark.parametrize(
    ("name", "folder", "train", "held_out"),
    [
        ("sst2", "sst2", 67_349, {"dev": 872}),
        ("mrpc", "mrpc", 3_667, {"dev": 408}),
        ("stsb", "stsb", 5_749, {"dev": 1_500}),
        ("conll2003", "conll2003", 14_041, {"dev": 3_250, "test": 3_453}),
        ("squad1", "squad", 4_330, {"dev": 2_910}),
    ],
)
def test_published_files_are_read_whole(
    shared_data: Path, name: str, folder: str, train: int, held_out: dict[str, int]
) -> None:
    data = read_data(TASKS[name], str(shared_data / "tasks" / folder), skip_bad=name == "squad1")
    assert len(data.train) == train
    assert {key: len(examples) for key, examples in (data.dev | data.test).items()} == held_out
    if name == "conll2003":
        assert len(data.task.labels) == 9
