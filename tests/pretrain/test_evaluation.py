import jax
import numpy as np
import pytest
from tiny_models import SPECIAL, make_config, make_params, make_rows, quick_jit

from electra_jax.model.electra import create_model
from electra_jax.pretrain.evaluation import evaluate, make_eval_step

ROWS = 24
METRICS = {
    "mlm_loss", "mlm_accuracy", "generator_entropy", "rtd_loss", "rtd_auc", "rtd_auc_unigram", "rtd_precision",
    "rtd_recall", "replaced_share",
}  # fmt: skip


@pytest.fixture(scope="module")
def setting():
    config = make_config()
    step = quick_jit(make_eval_step(config.objective, create_model(config), SPECIAL))
    unigram = np.bincount(make_rows(0, rows=ROWS).ravel(), minlength=50).astype(np.float64)
    unigram[: SPECIAL.mask + 1] = 0
    return config, step, unigram


def batches(size, rows=ROWS):
    ids = make_rows(0, rows=rows)
    for start in range(0, rows, size):
        yield ids[start : start + size], np.arange(start, min(start + size, rows), dtype=np.int32)


def run(setting, params, size, step=None):
    _, compiled, unigram = setting
    on_device = (tuple(jax.device_put(part)) for part in batches(size))
    return evaluate(step or compiled, params, on_device, unigram)


def test_numbers_are_the_same_twice_and_for_any_batch_size(setting):
    params = make_params(setting[0])
    first = run(setting, params, 8)
    assert first.keys() == METRICS
    assert run(setting, params, 8) == first
    for name, value in run(setting, params, 24).items():
        assert value == pytest.approx(first[name], rel=1e-5), name


def test_numbers_follow_the_parameters_but_neither_the_run_s_seed_nor_its_dropout(setting):
    config, _, _ = setting
    first = run(setting, make_params(config), 8)
    assert run(setting, make_params(config, seed=1), 8)["rtd_loss"] != first["rtd_loss"]
    other = make_config(train={"seed": 5}, model={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    step = quick_jit(make_eval_step(other.objective, create_model(other), SPECIAL))
    assert run(setting, make_params(config), 8, step) == first


def test_scores_in_chunks_give_the_same_numbers(setting):
    """Also where the chunks divide no batch, as when a run's model is asked about other batches than its own."""
    params = make_params(setting[0])
    config = make_config(runtime={"vocab_chunks": 4})
    step = quick_jit(make_eval_step(config.objective, create_model(config), SPECIAL))
    whole = run(setting, params, 8)
    for size in (8, 6):
        for name, value in run(setting, params, size, step).items():
            assert value == pytest.approx(whole[name], rel=1e-5), name


def test_an_untrained_model_is_worth_nothing(setting):
    metrics = run(setting, make_params(setting[0], scale=0.02), 8)
    assert metrics["mlm_loss"] == pytest.approx(np.log(50), abs=0.1)
    assert metrics["generator_entropy"] == pytest.approx(np.log(50), abs=0.05)
    assert metrics["rtd_loss"] == pytest.approx(np.log(2), abs=0.1)
    assert abs(metrics["rtd_auc"] - 0.5) < 0.15
    assert abs(metrics["rtd_auc_unigram"] - 0.5) < 0.15
    assert 0.08 < metrics["replaced_share"] < 0.16


def test_unigram_corruption_uses_the_unigram_distribution(setting):
    """Where the corpus has one word only, nothing but that word is ever written, and its own places stay original."""
    config, step, _ = setting
    unigram = np.zeros(50)
    unigram[7] = 3
    ids = make_rows(0)
    ids[ids > SPECIAL.mask] = 7
    numbers = np.arange(8, dtype=np.int32)
    cumulative = np.cumsum(unigram / 3).astype(np.float32)
    sums = step(make_params(config), *jax.device_put((ids, numbers, cumulative)))
    assert sums["rtd_unigram"].replaced.sum() == 0
    assert sums["rtd_unigram"].original.sum() == (ids != SPECIAL.pad).sum()


def test_mlm_has_no_detection_metrics_and_no_batches_no_metrics():
    config = make_config(objective={"name": "mlm"})
    step = quick_jit(make_eval_step(config.objective, create_model(config), SPECIAL))
    metrics = run((config, step, np.ones(50)), make_params(config), 8)
    assert metrics.keys() == {"mlm_loss", "mlm_accuracy", "generator_entropy"}
    assert evaluate(step, {}, [], np.ones(50)) == {}
