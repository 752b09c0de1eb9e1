"""GLUE as a whole: which tasks are found, in what order they train, the table, killed and resumed, refused."""

import io
import json
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from runs import DEEDS, PEOPLE, THINGS, SmallRun, electra_jax, start

from electra_jax import cli
from electra_jax.errors import UserError
from electra_jax.finetune.glue import GlueConfig, Place, choose_tasks, find_glue, run_glue
from electra_jax.finetune.glue_table import AVERAGED, glue_json, markdown, notes, show_glue
from electra_jax.finetune.results import MemberResult
from electra_jax.tasks.known import TASKS
from electra_jax.tasks.task import Task

PAPER = ["CoLA", "SST", "MRPC", "STS", "QQP", "MNLI", "QNLI", "RTE"]


def write_glue(folder: Path, rows: int = 48) -> Path:
    """CoLA, MNLI and RTE in their official layouts: what counts is what is done."""
    draw = random.Random(0)
    people, deeds, things = PEOPLE.split("|"), DEEDS.split("|"), THINGS.split("|")

    def sentence() -> tuple[str, int]:
        deed = draw.randrange(len(deeds))
        return f"{draw.choice(people)} {deeds[deed]} {draw.choice(things)}", deed

    def table(path: Path, head: str | None, line: Any, count: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [] if head is None else [head]
        path.write_text("\n".join([*lines, *(line(number) for number in range(count))]) + "\n", encoding="utf-8")

    def cola(number: int) -> str:
        text, deed = sentence()
        return f"gj04\t{deed % 2}\t{'' if deed % 2 else '*'}\t{text}."

    def rte(number: int) -> str:
        (first, one), (second, other) = sentence(), sentence()
        return f"{number}\t{first}\t{second}\t{'entailment' if one < other else 'not_entailment'}"

    def mnli(number: int) -> str:
        (first, one), (second, other) = sentence(), sentence()
        label = "entailment" if one < other else "neutral" if one > other else "contradiction"
        return f"{number}\t{first}\t{second}\t{label}"

    for name, count in (("train", rows), ("dev", 16)):
        table(folder / "CoLA" / f"{name}.tsv", None, cola, count)
        table(folder / "RTE" / f"{name}.tsv", "index\tsentence1\tsentence2\tlabel", rte, count)
    for name, count in (("train", rows), ("dev_matched", 16), ("dev_mismatched", 16)):
        table(folder / "MNLI" / f"{name}.tsv", "index\tsentence1\tsentence2\tgold_label", mnli, count)
    return folder


def glue_args(run: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "glue", "--model", str(run), "--data", str(data), "--out", str(out), "--seeds", "2", "--epochs", "1",
        "--learning-rates", "1e-3", "--length", "32", "--batch-size", "16", "--batches", "random",
        "--runtime.no-unroll-layers", "--evaluations", "1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue") / "data")


@pytest.fixture(scope="module")
def whole(small_run: SmallRun, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An undisturbed run, and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = electra_jax(*glue_args(small_run.run, data, out, "--from-mnli"), check=True, COLUMNS="80")
    return out, done.stdout.decode() + done.stderr.decode()


@pytest.mark.slow
def test_killed_in_the_second_task_the_first_is_not_trained_again(small_run, data, whole, tmp_path):
    out = tmp_path / "out"
    args = glue_args(small_run.run, data, out, "--from-mnli")
    process = start(*args)
    until = time.monotonic() + 240
    while not (out / "cola" / "training").is_dir() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -9, errors
    assert not (out / "cola" / "results.json").exists()
    assert list(json.loads((out / "glue.json").read_text())["tasks"]) == ["mnli"]
    before = (out / "mnli" / "results.json").stat().st_mtime_ns
    electra_jax(*args, check=True)
    assert (out / "mnli" / "results.json").stat().st_mtime_ns == before
    assert json.loads((out / "glue.json").read_text()) == json.loads((whole[0] / "glue.json").read_text())


@pytest.mark.slow
def test_a_chosen_step_is_what_all_tasks_begin_with(small_run, data, tmp_path, capsys):
    """Also when the run has dropped it between two tasks; another step is refused, and no table is touched."""
    run, out = Path(shutil.copytree(small_run.run, tmp_path / "run")), tmp_path / "out"
    older, newest = sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]*"))[-2:]

    def args(tasks: str, *step: str) -> list[str]:
        return glue_args(run, data, out, "--tasks", tasks, *step)

    electra_jax(*args("rte", "--step", str(older)), check=True)
    shutil.rmtree(run / "checkpoints" / str(older))
    electra_jax(*args("cola,rte", "--step", str(older)), check=True)
    begun = [json.loads((out / name / "finetune.json").read_text())["origin"] for name in ("cola", "rte")]
    assert [(origin["step"], origin["model"]) for origin in begun] == [(older, begun[0]["model"])] * 2
    before = (out / "glue.json").read_bytes()
    assert cli.main(args("cola,rte", "--step", str(newest))) == 2
    assert "begun with another model" in capsys.readouterr().err
    assert (out / "glue.json").read_bytes() == before


def test_one_table_of_what_each_task_wrote(whole):
    out, printed = whole
    found = json.loads((out / "glue.json").read_text())
    assert list(found["tasks"]) == ["cola", "mnli", "rte"]
    for name, column in found["tasks"].items():
        results = json.loads((out / name / "results.json").read_text())
        assert (column["metric"], column["median"]) == (results["metric"], results["median"])
        assert (column["n"], column["epochs"], column["learning_rate"]) == (2, 1.0, 1e-3)
    assert found["average_of_medians"] == pytest.approx(sum(task["median"] for task in found["tasks"].values()) / 3)
    assert found["not_averaged_over"] == ["SST", "MRPC", "STS", "QQP", "QNLI"]
    assert "no SST-2, MRPC, STS-B, QQP, QNLI" in printed
    assert "average is over 3 of GLUE's 8 tasks" in " ".join(printed.split())


def test_the_small_tasks_begin_with_mnli(whole):
    out, printed = whole
    order = [printed.index(f"{name}, task {number} of 3") for number, name in enumerate(("MNLI", "CoLA", "RTE"), 1)]
    assert order == sorted(order)
    begun = {name: json.loads((out / name / "finetune.json").read_text()) for name in ("mnli", "cola", "rte")}
    assert begun["rte"]["settings"]["model"] == str(out / "mnli")
    assert begun["cola"]["settings"]["model"] == begun["mnli"]["settings"]["model"] != str(out / "mnli")
    tasks = json.loads((out / "glue.json").read_text())["tasks"]
    assert {name: task["begins_with"] == "mnli" for name, task in tasks.items()} == {
        "cola": False,
        "mnli": False,
        "rte": True,
    }


def test_the_markdown_table_has_the_figures(whole):
    out, _ = whole
    text = (out / "glue.md").read_text()
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[0] == ["", "CoLA", "MNLI", "RTE", "Avg."]
    assert all(re.fullmatch(":?--+:?", cell) for cell in cells[1])
    assert {len(line) for line in cells} == {5}
    found = json.loads((out / "glue.json").read_text())
    medians = [task["median"] for task in found["tasks"].values()]
    assert cells[2] == ["median", *(f"{100 * v:.1f}" for v in medians), f"{100 * found['average_of_medians']:.1f}"]
    assert "protocol paper" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--from-mnli", "--protocol", "fixed"), "results of the protocol 'paper'"),
        (("--from-mnli", "--seeds", "3"), "begun with other settings (seeds: [0, 1] → [0, 1, 2])"),
        ((), "begun with other settings (from_mnli: True → False)"),
        (("--from-mnli", "--model", "none", "--like", "RUN"), "begun with other settings (layer_decay"),
        (("--from-mnli", "--model", "none", "--like", "RUN", "--layer-decay", "0.8"), "begun with another model"),
    ],
)
def test_what_does_not_go_into_the_table_is_refused(small_run, data, whole, capsys, more, sentence):
    out, _ = whole
    before = (out / "glue.json").read_bytes()
    more = [str(small_run.run) if part == "RUN" else part for part in more]
    assert cli.main(glue_args(small_run.run, data, out, *more)) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert (out / "glue.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--protocol", "fixed", "--learning-rates", "1e-3,1e-4"), "one learning rate for all tasks"),
        (("--tasks", "cola,sst2"), "no folder SST-2, but 'CoLA', 'MNLI', 'RTE'"),
        (("--tasks", "squad1"), "choose among GLUE's"),
        (("--tasks", "cola,rte", "--from-mnli"), "--from-mnli needs MNLI"),
        (("--data", "tfds:nowhere"), "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(small_run, data, tmp_path, capsys, more, sentence):
    assert cli.main(glue_args(small_run.run, data, tmp_path / "out", *more)) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_found_lists_what_is_there(tmp_path):
    (tmp_path / "books").mkdir()
    with pytest.raises(UserError, match=r"no folder CoLA or SST-2 .* but 'books'"):
        find_glue(str(tmp_path), AVERAGED, must=False)


def test_a_missing_file_is_found_before_anything_trains(data, tmp_path):
    (tmp_path / "CoLA").symlink_to(data / "CoLA")
    (tmp_path / "RTE").mkdir()
    with pytest.raises(UserError, match=r"RTE has no train\.tsv and no dev\.tsv"):
        find_glue(str(tmp_path), AVERAGED, must=False)


def test_two_folders_of_one_task_are_refused(data, tmp_path):
    for name in ("RTE", "rte"):
        (tmp_path / name).symlink_to(data / "RTE")
    with pytest.raises(UserError, match="'RTE', 'rte', which are one task"):
        find_glue(str(tmp_path), AVERAGED, must=False)


def test_official_and_lower_case_names_are_found(tmp_path):
    """And the metric that chooses is the paper's."""
    for name in ("sst2", "STS-B", "MRPC", "WNLI"):
        (tmp_path / name).mkdir()
        for file in ("train.tsv", "dev.tsv"):
            (tmp_path / name / file).touch()
    places, absent = find_glue(str(tmp_path), choose_tasks(None), must=False)
    assert [(place.task.name, place.task.metrics[0]) for place in places] == [
        ("sst2", "accuracy"),
        ("mrpc", "accuracy"),
        ("stsb", "spearman"),
    ]
    assert absent == ["CoLA", "QQP", "MNLI", "QNLI", "RTE"]
    assert set(places[1].task.metrics) == set(TASKS["mrpc"].metrics)
    asked, _ = find_glue(str(tmp_path), choose_tasks("WNLI, SST-2"), must=True)
    assert [Path(place.data).name for place in asked] == ["sst2", "WNLI"]


def config(**changes: Any) -> GlueConfig:
    settings: dict[str, Any] = {
        "protocol": "paper", "from_mnli": False, "seeds": (0, 1, 2), "learning_rates": (1e-4, 3e-4), "epochs": None,
        "length": None, "head": "paper", "batch_size": 32, "batches": "by_length", "layer_decay": 0.8,
        "layer_decay_form": "paper", "warmup_share": 0.1, "weight_decay": 0.0, "dropout": 0.1,
        "clip_norm": 1.0, "bias_correction": False, "evaluations": 6,
    }  # fmt: skip
    return GlueConfig(**settings | changes)


def results_of(task: Task, rates: dict[float, tuple[float, ...]]) -> list[MemberResult]:
    metric = task.metrics[0]
    return [
        MemberResult(seed, rate, value != value, 0, [{"step": 1, "epoch": 1.0, "loss": 1.0, metric: value}])
        for rate, values in rates.items()
        for seed, value in enumerate(values)
    ]


def test_each_task_has_its_best_rate_and_the_average_is_of_medians(tmp_path):
    """Over all eight, whatever WNLI says and in whatever order they come."""
    order: list[str] = []

    def train(place: Place, out: Path, before: Path | None) -> list[MemberResult]:
        order.append(place.task.name)
        number = len(order) / 10
        better, worse = (number, number, 0.0), (number - 0.05, 0.99, 0.0)
        return results_of(place.task, {1e-4: better, 3e-4: worse} if len(order) % 2 else {1e-4: worse, 3e-4: better})

    names = [*AVERAGED, "wnli"]
    places = [Place(TASKS[name], "") for name in reversed(names)]
    found = run_glue(config(), "m", "w", places, train, tmp_path / "out", Console(quiet=True))
    assert order == names
    assert [task["title"] for task in found["tasks"].values()] == [*PAPER, "WNLI"]
    assert found["averaged_over"] == PAPER
    assert found["average_of_medians"] == pytest.approx(sum(range(1, 9)) / 80)
    assert [task["learning_rate"] for task in found["tasks"].values()][:3] == [1e-4, 3e-4, 1e-4]
    assert [task["epochs"] for task in found["tasks"].values()] == [3, 3, 3, 10, 3, 3, 3, 10, 3]
    assert not any("not the paper's" in note for note in notes(found))
    console = Console(width=80, record=True, file=io.StringIO())
    show_glue(found, console)
    shown = console.export_text()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert next(line.split() for line in shown.splitlines() if "WNLI" in line) == [*PAPER, "WNLI", "Avg."]


def test_a_task_that_diverged_wholly_is_in_no_average():
    task = {"title": "CoLA", "metric": "matthews", "median": None, "mean": None, "q1": None, "q3": None, "diverged": 2}
    task |= {"learning_rate": 1.0, "epochs": 3.0, "begins_with": "the pre-trained model"}
    settings = json.loads(json.dumps({**vars(config())}))
    found = glue_json(settings, "m", "w", {"cola": task})
    assert (found["average_of_medians"], found["averaged_over"]) == (None, [])
    assert "| – |" in markdown(found)
