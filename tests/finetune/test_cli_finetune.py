"""From somebody's own files to answers, by the commands as typed: `finetune`, `predict`, `evaluate`, `export`."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from parity import random_params
from runs import electra_jax, start

from electra_jax.cli import main
from electra_jax.interop.export import export_huggingface
from electra_jax.interop.model_card import Facts
from electra_jax.networks import NetworksConfig
from tests.finetune.tiny_tasks import WORDS, task, tiny_model

Said = tuple[int, str, str]
Run = Callable[..., Said]
QUICK = ("--seeds", 1, "--epochs", 1, "--length", 32, "--learning-rates", "1e-3")
QUICK += ("--runtime.no-unroll-layers", "--evaluations", 1)


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """A command in this process: its exit code, what it printed, what it said on standard error."""

    def said(*args: Any) -> Said:
        code = main([str(arg) for arg in args])
        found = capfdbinary.readouterr()
        return code, found.out.decode(), found.err.decode()

    return said


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a pre-trained network; its weights are random."""
    model = tiny_model(task("classification", labels=("a", "b")), form="huggingface")
    networks = NetworksConfig(discriminator=model.model.networks.discriminator)
    out = tmp_path_factory.mktemp("source") / "hf"
    return export_huggingface(out, networks, random_params(networks), model.tokenizer, Facts(0))[0]


class Own(NamedTuple):
    """A fine-tuned model, the arguments it came from, and its held-out file."""

    out: Path
    args: tuple[Any, ...]
    dev: Path


def _text(draw: random.Random, most: int = 8) -> str:
    return " ".join(draw.choices(WORDS[:8], k=draw.randint(2, most)))


def write_classes(folder: Path) -> tuple[Any, ...]:
    """CSV with spaces in the columns' names, and commas and line ends in its fields."""
    draw = random.Random(0)
    for name, count in (("train.csv", 48), ("dev.csv", 20)):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["No.", "Review text", "How it was"])
            for number in range(count):
                rows.writerow([number, _text(draw) + ",\nand more", draw.choice(["bad", "good"])])
    return ("--kind", "classification", "--text", "Review text", "--label", "How it was")


def write_pairs(folder: Path) -> tuple[Any, ...]:
    """TSV without a header."""
    draw = random.Random(1)
    for name, count in (("train.tsv", 48), ("dev.tsv", 20)):
        lines = [f"{_text(draw)}\t{_text(draw)}\t{draw.uniform(1, 7):.2f}\n" for _ in range(count)]
        lines[0], lines[1] = "the\tthe\t7\n", "the\tof\t1\n"
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return ("--kind", "regression", "--text", 0, "--pair", 1, "--label", 2, "--no-header", "--metrics", "mse,pearson")


def write_tags(folder: Path) -> tuple[Any, ...]:
    draw = random.Random(2)
    for name, count in (("train.conll", 32), ("dev.conll", 12)):
        sentences = []
        for _ in range(count):
            words = draw.choices(WORDS[:8], k=draw.randint(2, 6))
            sentences.append("".join(f"{word} {draw.choice(['O', 'I-X', 'B-Y'])} _\n" for word in words))
        (folder / name).write_text("\n".join(sentences), encoding="utf-8")
    return ("--kind", "tagging", "--scheme", "iob2", "--tag-column", 1)


def write_questions(folder: Path) -> tuple[Any, ...]:
    draw = random.Random(3)
    for name, count in (("train.jsonl", 32), ("dev.jsonl", 12)):
        lines = []
        for number in range(count):
            context = _text(draw, 30) + " expression"
            record = {"id": f"q{number}", "question": "what is it ?", "context": context, "answer": "expression"}
            lines.append(json.dumps(record | {"answer_start": len(context) - 10}))
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return ("--kind", "question_answering")


WRITERS = {
    "classification": write_classes,
    "regression": write_pairs,
    "tagging": write_tags,
    "question_answering": write_questions,
}


@pytest.fixture(scope="module")
def own(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Own]:
    """Fine-tunes on own data of a kind, once."""
    made: dict[str, Own] = {}

    def make(kind: str) -> Own:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            args = WRITERS[kind](folder)
            train, dev = (next(folder.glob(f"{name}.*")) for name in ("train", "dev"))
            head = "huggingface" if kind in ("classification", "regression") else "paper"
            args += ("--train", train, "--dev", dev, "--model", source, "--head", head, *QUICK)
            found = Own(folder / "out", args, dev)
            electra_jax("finetune", "--out", found.out, *args, check=True)  # compiled quickly
            made[kind] = found
        return made[kind]

    return make


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("kind", WRITERS)
def test_evaluate_finds_what_the_fine_tuning_found(kind: str, own: Callable[[str], Own], run: Run) -> None:
    made = own(kind)
    code, told, _ = run("evaluate", "--model", made.out, "--data", made.dev)
    assert code == 0
    (found,) = objects(told)
    results = json.loads((made.out / "results.json").read_text())
    final = results["members"][0]["curve"][-1]
    metrics = {
        "classification": ("accuracy", "macro_f1"),
        "regression": ("mse", "pearson"),
        "tagging": ("f1", "precision", "recall"),
        "question_answering": ("f1", "exact_match"),
    }[kind]
    assert set(metrics) <= found.keys()
    assert results["metric"] == metrics[0]
    for name in metrics:
        assert found[name] == pytest.approx(final[name], abs=1e-4)
    assert found["examples"] == {"classification": 20, "regression": 20}.get(kind, 12)
    code, told, _ = run("evaluate", "--run", made.out, "--data", made.dev, "--table")
    assert code == 0
    assert f"{found[metrics[0]]:.4f}" in told


def test_predict_from_a_file_into_a_file(own: Callable[[str], Own], run: Run, tmp_path: Path) -> None:
    made = own("classification")
    out = tmp_path / "found.jsonl"
    out.write_text("old")
    assert run("predict", "--model", made.out, "--input", made.dev, "--output", out) == (0, "", "")
    found = objects(out.read_text())
    assert len(found) == 20
    assert {frozenset(answer["probabilities"]) for answer in found} == {frozenset(("bad", "good"))}
    with open(made.dev, newline="", encoding="utf-8") as file:
        truth = [row["How it was"] for row in csv.DictReader(file)]
    right = sum(answer["label"] == label for answer, label in zip(found, truth, strict=True))
    _, told, _ = run("evaluate", "--model", made.out, "--data", made.dev)
    assert right / 20 == pytest.approx(objects(told)[0]["accuracy"])
    assert [path.name for path in tmp_path.iterdir()] == ["found.jsonl"]


def test_ids_come_back_in_order(own: Callable[[str], Own], run: Run, tmp_path: Path) -> None:
    texts = tmp_path / "in.jsonl"
    texts.write_text("".join(f'{{"id": "n{n}", "text": "{"the value " * (n % 13 + 1)}"}}\n' for n in range(80)))
    code, told, _ = run("predict", "--model", own("classification").out, "--input", texts)
    assert code == 0
    assert [answer["id"] for answer in objects(told)] == [f"n{n}" for n in range(80)]
    code, told, _ = run("predict", "--model", own("question_answering").out, "--input", own("question_answering").dev)
    records = objects(own("question_answering").dev.read_text())
    for answer, record in zip(objects(told), records, strict=True):
        assert answer["id"] == record["id"]
        assert record["context"][answer["start"] : answer["end"]] == answer["text"] != ""


def test_plain_text_is_tagged_where_it_stands(own: Callable[[str], Own], run: Run, tmp_path: Path) -> None:
    line = "  The value, it's \u00e9 \U0001f600 of 日本語. "
    (tmp_path / "in.txt").write_text(line + "\n", encoding="utf-8")
    code, told, _ = run("predict", "--model", own("tagging").out, "--input", tmp_path / "in.txt")
    assert code == 0
    (answer,) = objects(told)
    words = ["The", "value", ",", "it's", "\u00e9", "\U0001f600", "of", "日本語", "."]
    assert [word["text"] for word in answer["words"]] == words
    assert [line[word["start"] : word["end"]] for word in answer["words"]] == words
    assert {word["tag"] for word in answer["words"]} <= {"O", "B-X", "I-X", "B-Y", "I-Y"}
    code, told, _ = run("predict", "--model", own("tagging").out, "--input", own("tagging").dev)
    assert len(objects(told)) == 12


def test_scores_of_pairs_without_a_header(own: Callable[[str], Own], run: Run) -> None:
    code, told, _ = run("predict", "--model", own("regression").out, "--input", own("regression").dev)
    assert code == 0
    assert len([answer["score"] for answer in objects(told)]) == 20
    settings = json.loads((own("regression").out / "finetune.json").read_text())["settings"]["task"]
    assert (settings["low"], settings["high"]) == (1.0, 7.0)


def test_a_pipe_is_answered_before_it_ends(own: Callable[[str], Own]) -> None:
    process = start("predict", "--model", own("classification").out)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"The value is returned.\n" * 64)
    process.stdin.flush()
    first = [process.stdout.readline() for _ in range(64)]
    assert len(set(first)) == 1
    rest, errors = process.communicate(b"One more.\n", timeout=120)
    assert (process.returncode, errors) == (0, b"")
    assert len(rest.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "text", "sentence"),
    [
        ("classification", b"", "standard input holds no examples"),
        ("classification", b"good\n\nbad \xff\n", "standard input, line 3 is not UTF-8"),
        ("classification", b'{"text": "good"}\n{"text": ""}\n', "standard input, line 2: the text is empty"),
        ("regression", b"alone\n", "takes two texts: give JSON lines with 'text' and 'pair'"),
    ],
)
def test_bad_input_is_one_sentence(kind: str, text: bytes, sentence: str, own: Callable[[str], Own]) -> None:
    done = electra_jax("predict", "--model", own(kind).out, stdin=text)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("electra-jax: ")
    assert sentence in line


def test_bad_lines_can_be_left_out_and_leave_an_old_output_alone(
    own: Callable[[str], Own], run: Run, tmp_path: Path
) -> None:
    out, texts = tmp_path / "out.jsonl", tmp_path / "in.jsonl"
    out.write_text("old")
    texts.write_text('{"id": 1, "text": "good"}\nnothing\n{"id": 3, "text": "bad"}\n')
    args = ("predict", "--model", own("classification").out, "--input", texts, "--output", out)
    code, _, error = run(*args)
    assert (code, out.read_text()) == (2, "old")
    assert f"{texts}, line 2 is not one whole JSON object" in error
    code, _, error = run(*args, "--skip-bad")
    assert code == 0
    assert [answer["id"] for answer in objects(out.read_text())] == ["1", "3"]
    assert "1 place left out" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_figures_say_what_was_left_out_of_them(own: Callable[[str], Own], run: Run, tmp_path: Path) -> None:
    made = own("classification")
    dev = tmp_path / made.dev.name
    dev.write_text(made.dev.read_text() + "no row of it\n")
    code, told, _ = run("evaluate", "--model", made.out, "--data", dev, "--skip-bad")
    assert code == 0
    (found,) = objects(told)
    (note,) = found["notes"]
    assert note.startswith(f"{dev}: 1 place left out, the first: {dev}, line ")
    whole = objects(run("evaluate", "--model", made.out, "--data", made.dev)[1])[0]
    assert "notes" not in whole
    assert found["accuracy"] == whole["accuracy"]
    assert json.loads((made.out / "results.json").read_text())["notes"] == []


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("predict", "--model", "SOURCE"), "was pre-trained only: take a model with the head of one task"),
        (("predict", "--model", "MISSING"), "MISSING"),
        (("predict", "--model", "OUT", "--input", "MISSING"), "there is no file MISSING"),
        (("predict", "--model", "OUT", "--output", "FOLDER"), "is no plain file"),
        (("predict", "--model", "OUT", "--output", "MISSING/out.jsonl"), "there is no folder MISSING"),
        (("predict", "--model", "OUT", "--input", "DEV", "--output", "DEV"), "is the input, too"),
        (("evaluate", "--model", "OUT", "--data", "DEV", "--rows", "3"), "--rows is for pre-training runs"),
        (("evaluate", "--model", "OUT", "--data", "DEV", "--step", "3"), "which has no steps"),
        (("evaluate", "--model", "OUT", "--data", "FOLDER"), "is a folder: name the labelled file"),
        (
            ("evaluate", "--model", "OUT", "--data", "OTHER"),
            "line 2: the label 'fair' is not among own's, 'bad', 'good'",
        ),
        (("evaluate", "--model", "SOURCE", "--data", "DEV", "--skip-bad"), "--skip-bad is for labelled files"),
        (("detect", "--run", "OUT", "text"), "this one was fine-tuned for sequence_classification"),
    ],
)
def test_wrong_uses(
    args: tuple[str, ...], sentence: str, own: Callable[[str], Own], source: Path, run: Run, tmp_path: Path
) -> None:
    made = own("classification")
    (tmp_path / "other.csv").write_text("Review text,How it was\nthe value,fair\n")
    places = {"OUT": made.out, "DEV": made.dev, "SOURCE": source, "FOLDER": tmp_path, "OTHER": tmp_path / "other.csv"}
    code, told, error = run(*(places.get(arg, arg) for arg in args))
    assert (code, told) == (2, "")
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "say what to learn: --task NAME --data FOLDER, or"),
        (("--task", "mrpc"), "--task mrpc needs --data"),
        (("--task", "mrpc", "--data", ".", "--kind", "regression"), "--kind describe data of one's own"),
        (("--task", "mrpc", "--data", ".", "--text", "a", "--no-header"), "--text, --no-header describe data of"),
        (("--kind", "tagging"), "--kind KIND --train FILE --dev FILE"),
        (("--kind", "tagging", "--train", "A", "--dev", "A", "--data", "."), "leave it out, for --train and --dev"),
        (("--kind", "tagging", "--train", "A", "--dev", "A", "--low", "0"), "--low cannot go with --kind tagging"),
        (("--kind", "classification", "--train", "A", "--dev", "B"), "there is no file B"),
        (("--kind", "classification", "--train", "A", "--dev", "A", "--metrics", "f2"), "there is no metric 'f2'"),
        (
            ("--kind", "classification", "--train", "A", "--dev", "A", "--text", "b"),
            "has no column 'b', for it has 'a'",
        ),
    ],
)
def test_descriptions_that_cannot_be(
    args: tuple[str, ...], sentence: str, source: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tsv").write_text("a\tlabel\nx\t0\n")
    code, _, error = run("finetune", "--model", source, "--out", "out", *({"A": "a.tsv"}.get(arg, arg) for arg in args))
    assert code == 2
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_task_file_lies_anywhere_and_names_files_of_the_data_s_folder(
    own: Callable[[str], Own], source: Path, tmp_path: Path
) -> None:
    made = own("classification")
    described = {
        "name": "reviews", "kind": "classification", "layout": "table", "metrics": ["accuracy"],
        "train": "train.csv", "dev": ["dev.csv"], "text": "Review text", "label": "How it was",
    }  # fmt: skip
    (tmp_path / "reviews.json").write_text(json.dumps(described))
    args = ("--model", source, "--head", "huggingface", *QUICK, "--out", tmp_path / "out")
    electra_jax("finetune", "--task", tmp_path / "reviews.json", "--data", made.dev.parent, *args, check=True)
    ours, theirs = (json.loads((out / "results.json").read_text()) for out in (tmp_path / "out", made.out))
    assert ours["task"] == "reviews"
    assert ours["median"] == theirs["median"]


def test_the_same_command_again_has_nothing_to_do(own: Callable[[str], Own], run: Run) -> None:
    made = own("classification")
    code, told, _ = run("finetune", "--out", made.out, *made.args)
    assert code == 0
    assert "is finished" in told
    changed = tuple("Review" if arg == "Review text" else arg for arg in made.args)
    assert run("finetune", "--out", made.out, *changed)[0] == 2


def test_the_page_of_an_export_says_what_was_learned(own: Callable[[str], Own], run: Run, tmp_path: Path) -> None:
    for kind, says in (("classification", "| accuracy | "), ("regression", "the score is 1 + 6 × logit")):
        made = own(kind)
        code, told, error = run("export", "--run", made.out, "--out", tmp_path / kind)
        assert (code, told) == (0, f"{tmp_path / kind}\n"), error
        card = (tmp_path / kind / "README.md").read_text()
        assert says in card
        assert "seed 0, learning rate 0.001, 1 epochs, rows of at most 32 tokens" in card
        assert "from the weights of `discriminator`" in card
        assert str(tmp_path.parent) not in card
        value = json.loads((made.out / "results.json").read_text())["median"]
        assert f"{value:.4f} |" in card
    code, _, error = run("export", "--run", own("question_answering").out, "--out", tmp_path / "spans")
    assert code == 2
    assert "fine-tune with --head huggingface to export" in error
