"""What is chosen, counted, shown and drawn of results, against figures worked out by hand."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb
from rich.console import Console

from electra_jax.finetune.config import FinetuneConfig
from electra_jax.finetune.curves import draw_curves
from electra_jax.finetune.results import (
    MemberResult,
    best_of,
    best_rate,
    figure,
    metrics_of,
    results_json,
    results_table,
)
from electra_jax.tasks.task import METRICS
from tests.finetune.tiny_programs import tiny_config
from tests.finetune.tiny_tasks import task

NAN = math.nan


def member(seed: int, rate: float, diverged: bool = False, **final: float) -> MemberResult:
    """A member with a curve of two points, whose figures end as given."""
    before = {
        "step": 5,
        "epoch": 1.0,
        "seconds": 1.5,
        "loss": 0.7,
        **{name: value / 2 for name, value in final.items()},
    }
    return MemberResult(seed, rate, diverged, 0, [before, {**before, "step": 10, "epoch": 2.0, "loss": 0.5, **final}])


def config_of(metrics: tuple[str, ...] = ("accuracy",), kind: Any = "classification", **changes: Any) -> FinetuneConfig:
    return tiny_config(task=task(kind, metrics=metrics), seeds=(0, 1, 2), learning_rates=(1e-4, 1e-3), **changes)


def accuracies(*values: float, rate: float = 1e-3) -> list[MemberResult]:
    return [member(seed, rate, accuracy=value) for seed, value in enumerate(values)]


def test_the_best_member_has_the_highest_figure() -> None:
    results = accuracies(0.5, 0.9, 0.7)
    assert best_of(results, "accuracy") == results[1]


def test_the_first_of_equals_is_the_best() -> None:
    right, errors = accuracies(0.5, 0.9, 0.9), [member(seed, 1e-3, mse=mse) for seed, mse in enumerate((3.0, 1.0, 1.0))]
    assert best_of(right, "accuracy") == right[1]
    assert best_of(errors, "mse") == errors[1]


@pytest.mark.parametrize("metric", ["mse", "dev2/mse"])
def test_of_errors_the_lowest_is_the_best(metric: str) -> None:
    results = [member(seed, 1e-3, **{metric: value}) for seed, value in enumerate((2.0, 0.5, 7.0))]
    assert best_of(results, metric) == results[1]


def test_members_that_diverged_are_never_the_best() -> None:
    results = [
        member(0, 1e-3, diverged=True, accuracy=0.99),
        member(1, 1e-3, accuracy=NAN),
        member(2, 1e-3, accuracy=0.1),
    ]
    assert best_of(results, "accuracy") == results[2]
    assert best_of(results[:2], "accuracy") is None
    assert best_of([], "accuracy") is None


def test_the_best_rate_has_the_best_median() -> None:
    """Not the best member, and not the best mean."""
    lucky, steady = accuracies(0.1, 0.5, 1.0, rate=1e-3), accuracies(0.6, 0.6, 0.1, rate=1e-4)
    best = best_rate(lucky + steady, "accuracy")
    assert (best.learning_rate, best.metric, best.summary.median) == (1e-4, "accuracy", 0.6)


def test_the_best_rate_of_errors_has_the_lowest_median() -> None:
    errors = {1e-4: (4.0, 0.1, 5.0), 1e-3: (2.0, 3.0, 2.5)}
    results = [member(seed, rate, mse=mse) for rate, values in errors.items() for seed, mse in enumerate(values)]
    best = best_rate(results, "mse")
    assert (best.learning_rate, best.summary.median) == (1e-3, 2.5)


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_the_best_rate_among_diverged_ones(metric: str) -> None:
    """Diverged members do not count towards a median; a rate that has no other is the worst, whatever the metric."""
    results = [member(seed, 1e-3, diverged=True, **{metric: value}) for seed, value in enumerate((0.0, 1.0, 1.0))]
    results += [member(0, 1e-4, diverged=True, **{metric: 0.9}), *(member(s, 1e-4, **{metric: 0.3}) for s in (1, 2))]
    best = best_rate(results, metric)
    assert (best.learning_rate, best.summary.median) == (1e-4, 0.3)
    assert (best.summary.n, best.summary.diverged) == (2, 1)


@pytest.mark.parametrize(("metric", "good", "better"), [("accuracy", 0.88, 0.9), ("mse", 0.3, 0.2)])
def test_a_rate_at_which_most_seeds_diverge_does_not_win_by_the_others(metric: str, good: float, better: float) -> None:
    steady = [member(seed, 1e-4, **{metric: good}) for seed in range(5)]
    lost = [member(seed, 1e-2, diverged=seed > 0, **{metric: better}) for seed in range(5)]
    assert best_rate(lost + steady, metric).learning_rate == 1e-4
    survived = [member(seed, 1e-2, diverged=seed > 2, **{metric: better}) for seed in range(5)]
    assert best_rate(survived + steady, metric).learning_rate == 1e-2


def test_the_first_of_equal_rates_is_the_best() -> None:
    results = accuracies(0.5, 0.6, 0.7, rate=1e-4) + accuracies(0.6, 0.6, 0.6, rate=1e-3)
    assert best_rate(results, "accuracy").learning_rate == 1e-4


def test_metrics_are_what_was_measured_and_not_what_it_was_measured_on() -> None:
    results = [member(0, 1e-3, f1=0.5, exact_match=0.4, n=40, **{"dev2/f1": 0.3, "dev2/n": 20})]
    assert metrics_of(results) == ["f1", "exact_match", "dev2/f1"]


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("accuracy", 0.8765, "87.6"),
        ("matthews", -0.051, "-5.1"),
        ("dev2/f1", 1.0, "100.0"),
        ("mse", 0.1234, "0.123"),
        ("dev2/mse", 12.0, "12.000"),
        ("best_f1_threshold", -1.5, "-1.500"),
        ("accuracy", NAN, "–"),
        ("mse", math.inf, "–"),
    ],
)
def test_figures_for_people(metric: str, value: float, shown: str) -> None:
    assert figure(metric, value) == shown


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_results_json_has_no_nan() -> None:
    """Nor infinity, however deep: null stands for both."""
    results = [member(0, 1e-4, accuracy=0.5), member(0, 1e-3, diverged=True, accuracy=NAN, loss=math.inf)]
    text = json.dumps(results_json(config_of(), results, {"seconds": NAN}))
    values = json.loads(text, parse_constant=refuse)
    assert values["members"][1]["curve"][1]["accuracy"] is None
    assert values["members"][1]["curve"][1]["loss"] is None
    assert values["by_learning_rate"][1]["median"] is None
    assert values["seconds"] is None
    assert (values["median"], values["learning_rate"]) == (0.5, 1e-4)
    assert values["saved_member"] == {"seed": 0, "learning_rate": 1e-4}


def test_results_json_where_all_have_diverged() -> None:
    results = [member(seed, 1e-3, diverged=True, accuracy=NAN) for seed in range(2)]
    values = json.loads(json.dumps(results_json(config_of(), results, {})), parse_constant=refuse)
    assert (values["median"], values["saved_member"]) == (None, None)


SQUAD_2 = {
    "exact_match": 0.7012, "f1": 0.7712, "has_answer_exact_match": 0.66, "has_answer_f1": 0.81,
    "no_answer_accuracy": 0.9, "best_exact_match": 0.71, "best_exact_match_threshold": -12.25, "best_f1": 0.8812,
    "best_f1_threshold": -12.25,
}  # fmt: skip
MEASURED: dict[Any, dict[str, float]] = {
    "classification": {"accuracy": 1.0, "dev_mismatched/accuracy": 1.0, "matthews": -1.0},
    "regression": {"mse": 12.3456, "pearson": 0.8},
    "tagging": {"f1": 0.9, "precision": 0.9, "recall": 0.9, "eng.testb/precision": 0.9, "eng.testb/f1": 0.8},
    "question_answering": SQUAD_2,
}


@pytest.mark.parametrize("diverged", [False, True])
@pytest.mark.parametrize("kind", MEASURED)
def test_the_table_fits_80_columns(kind: Any, diverged: bool) -> None:
    """And nothing in it is cut off: long names go on in the next line."""
    final = MEASURED[kind]
    results = [
        member(seed, rate, diverged and seed == 2, **{name: value * (1 + seed) / 3 for name, value in final.items()})
        for rate in (1.25e-5, 1e-3)
        for seed in range(3)
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    main = next(name for name in final if name in METRICS[kind])
    console.print(results_table(config_of((main,), kind), results))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    found: list[list[str]] = []
    for cells in map(str.split, text.splitlines()[4:]):
        if len(cells) == 1:  # the rest of a name
            found[-1][0] += cells[0]
        elif cells:
            found.append(cells[1:] if cells[0] in ("1.25e-05", "0.001") else cells)
    # Medians of ⅓, ⅔ and the whole of each figure, or of the first two.
    expected = [[name, figure(name, value * (1 / 2 if diverged else 2 / 3))] for name, value in final.items()] * 2
    assert [cells[:2] for cells in found] == expected
    assert all(cells[-1] == "1" for cells in found) or not diverged


@pytest.mark.parametrize("count", [1, 3])
def test_curves_are_drawn(count: int, tmp_path: Path) -> None:
    """Loss and metrics side by side, a colour for each learning rate, of members that ended and of one that did not."""
    rates = (1e-4, 3e-4, 1e-3)[:count]
    results = [member(seed, rate, accuracy=0.5 + seed / 10, f1=rate) for rate in rates for seed in range(3)]
    path = draw_curves(tmp_path / "curves.png", results, "accuracy")
    assert path == tmp_path / "curves.png"
    assert path.stat().st_size > 10_000
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
    picture = image.imread(path)
    height, width = picture.shape[:2]
    assert 300 < height < 600
    assert width == pytest.approx(3 * 4.2 * 130, abs=2)
    for part in np.array_split(picture[..., :3], 3, axis=1):
        assert colours(part) >= {f"C{number}" for number in range(count)}
        assert f"C{count}" not in colours(part)


def colours(picture: np.ndarray) -> set[str]:
    """Matplotlib's first colours, as far as a picture has points of them."""
    return {f"C{n}" for n in range(4) if (np.abs(picture - np.array(to_rgb(f"C{n}"))).max(-1) < 0.01).any()}


def test_curves_of_members_that_diverged_are_drawn(tmp_path: Path) -> None:
    results = [*accuracies(0.5, 0.6), member(2, 1e-3, diverged=True, accuracy=NAN), member(0, 1.0, True, accuracy=NAN)]
    assert image.imread(draw_curves(tmp_path / "curves.png", results, "accuracy")).std() > 0


def test_what_is_measured_at_the_end_only_has_no_curve(tmp_path: Path) -> None:
    """As the figures of a test file."""
    results = accuracies(0.5, 0.6)
    before = image.imread(draw_curves(tmp_path / "curves.png", results, "accuracy"))
    for result in results:
        result.final["test/accuracy"] = 0.4
    np.testing.assert_array_equal(image.imread(draw_curves(tmp_path / "curves.png", results, "accuracy")), before)
