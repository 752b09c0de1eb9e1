"""Data whose name does not say what it is, and models that do not say what they take, by the commands as typed."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from parity import random_params
from runs import electra_jax

import electra_jax as package
from electra_jax.cli import main
from electra_jax.finetune.answers import Classified, Scored
from electra_jax.finetune.finetuned import FineTuned
from electra_jax.interop.export import export_huggingface
from electra_jax.interop.model_card import Facts
from electra_jax.networks import NetworksConfig
from electra_jax.tasks.task import Kind
from tests.finetune.tiny_tasks import WORDS, task, tiny_model
from tests.tasks.own_files import write

QUICK = ("--seeds", "1", "--epochs", "1", "--length", "32", "--learning-rates", "1e-3", "--evaluations", "1")
PAIR = {"text": "The value of an expression", "pair": "it's a list"}


def theirs(out: Path, kind: Kind, **said: Any) -> Path:
    """A model in a Hugging Face folder, which says nothing of the texts it learned."""
    model = tiny_model(task(kind, **said), form="huggingface")
    return export_huggingface(out, model.model.networks, model.params, model.tokenizer, Facts(0))[0]


def records(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_an_imported_model_is_asked_about_both_texts_of_a_pair(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = theirs(tmp_path / "hf", "classification", labels=("bad", "good"))
    model = package.load(folder)
    assert isinstance(model, FineTuned)
    expected = model.predict([(PAIR["text"], PAIR["pair"]), PAIR["text"]])
    first, alone = (answer.probabilities for answer in expected if isinstance(answer, Classified))
    assert abs(first["bad"] - alone["bad"]) > 1e-4
    texts = records(tmp_path / "in.jsonl", PAIR, {"text": PAIR["text"]}, {**PAIR, "pair": None})
    table = write(tmp_path, {"in.tsv": f"text\tpair\n{PAIR['text']}\t{PAIR['pair']}\n"}) / "in.tsv"
    assert main(["predict", "--model", str(folder), "--input", str(texts)]) == 0
    assert main(["predict", "--model", str(folder), "--input", str(table)]) == 0
    found = [json.loads(line)["probabilities"] for line in capfd.readouterr().out.splitlines()]
    for answer, right in zip(found, (first, alone, alone, first), strict=True):
        assert answer == pytest.approx(right, abs=1e-5)


def test_an_imported_model_is_measured_on_pairs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whose right scores go with its own, in a range of theirs; those of the first texts alone do not."""
    folder = theirs(tmp_path / "hf", "regression")
    model = package.load(folder)
    assert isinstance(model, FineTuned)
    draw = random.Random(0)
    pairs = [(" ".join(draw.choices(WORDS, k=5)), " ".join(draw.choices(WORDS, k=5))) for _ in range(20)]
    scores = [10 * answer.score - 5 for answer in model.predict(pairs) if isinstance(answer, Scored)]
    found = []
    for asked in [("text", "pair"), ("text",)]:
        lines = [dict(zip(asked, pair, strict=False)) | {"score": s} for pair, s in zip(pairs, scores, strict=True)]
        assert main(["evaluate", "--model", str(folder), "--data", str(records(tmp_path / "dev.jsonl", *lines))]) == 0
        found.append(json.loads(capfd.readouterr().out)["pearson"])
    assert found[0] == pytest.approx(1, abs=1e-6)
    assert found[1] < 0.99


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a pre-trained network; its weights are random."""
    model = tiny_model(task("classification", labels=("a", "b")), form="huggingface")
    networks = NetworksConfig(discriminator=model.model.networks.discriminator)
    out = tmp_path_factory.mktemp("source") / "hf"
    return export_huggingface(out, networks, random_params(networks), model.tokenizer, Facts(0))[0]


def test_columns_are_read_from_any_file_by_every_command(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A TSV of number, word and tag."""
    draw = random.Random(0)

    def lines(count: int) -> str:
        words = ([(at, draw.choice(WORDS), draw.choice(["O", "I-X"])) for at in range(1, 5)] for _ in range(count))
        return "\n".join("".join(f"{at}\t{word}\t{tag}\n" for at, word, tag in sentence) for sentence in words)

    write(tmp_path, {"train.tsv": lines(24), "dev.tsv": lines(8), "new.txt": lines(3)})
    train, dev, out = tmp_path / "train.tsv", tmp_path / "dev.tsv", tmp_path / "out"
    said = ("--kind", "tagging", "--layout", "columns", "--word-column", "1", "--scheme", "iob1")
    args = ("finetune", *said, "--train", train, "--dev", dev, "--model", source, "--out", out, *QUICK)
    electra_jax(*args, "--runtime.no-unroll-layers", check=True)
    final = json.loads((out / "results.json").read_text())["members"][0]["curve"][-1]
    assert main(["evaluate", "--model", str(out), "--data", str(dev)]) == 0  # as it was trained
    measured = json.loads(capfd.readouterr().out)
    assert (measured["examples"], measured["f1"]) == (8, pytest.approx(final["f1"], abs=1e-4))
    assert main(["evaluate", "--model", str(out), "--data", str(dev), "--layout", "table"]) == 2
    assert "has no column 'words'" in capfd.readouterr().err
    assert main(["predict", "--model", str(out), "--input", str(tmp_path / "new.txt")]) == 2
    assert "new.txt has 3 columns in every line" in capfd.readouterr().err
    assert main(["predict", "--model", str(out), "--input", str(tmp_path / "new.txt"), "--layout", "columns"]) == 0
    answers = [json.loads(line)["words"] for line in capfd.readouterr().out.splitlines()]
    assert [len(words) for words in answers] == [4, 4, 4]
    assert {word["text"] for words in answers for word in words} <= set(WORDS)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--kind", "question_answering", "--train", "D", "--dev", "D", "D"), "name each file once, not"),
        (("--kind", "question_answering", "--train", "D", "--dev", "D", "--dev=S"), "--dev is there twice: name all"),
        (("--kind", "classification", "--train", "D", "--dev", "D", "--layout", "columns"), "columns is for tagging"),
        (("--kind", "regression", "--train", "S", "--dev", "S", "--low", "0"), "the score '-1' is not within"),
        (("--kind", "regression", "--train", "S", "--dev", "S", "--word-column", "1"), "--word-column cannot go with"),
    ],
)
def test_descriptions_that_cannot_be(
    args: tuple[str, ...], sentence: str, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, {"d.json": '{"data": []}', "s.tsv": "text\tscore\na\t-1\nb\t3\n"})
    places = {"D": str(files / "d.json"), "S": str(files / "s.tsv")}
    typed = [places.get(arg, arg) for arg in args]
    assert main(["finetune", "--model", str(source), "--out", str(tmp_path / "out"), *typed]) == 2
    error = capfd.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
