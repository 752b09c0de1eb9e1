import dataclasses
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from runs import LENGTH, STEPS
from tiny_models import quick_jit

import electra_jax
from electra_jax.config import SpecialTokens, read_config
from electra_jax.errors import MachineError, UserError
from electra_jax.files import write_json
from electra_jax.model.electra import Electra, create_model, create_params
from electra_jax.model.inputs import create_inputs
from electra_jax.presets import with_objective
from electra_jax.pretrain.windows import MOST_ROWS, cut, rows_of
from electra_jax.settings import to_json
from electra_jax.text.rows import open_data_set
from electra_jax.training.checkpoint import Checkpoints
from electra_jax.training.metrics import read_metrics
from electra_jax.training.state import TrainState

SHORT = "The chef ate the meal in Marby."
LONG = " ".join(f"My best friend painted {n} boats near the river, without a word." for n in range(30))
# Spaces of several kinds, capitals and characters that the vocabulary has never seen.
ODD = "  The CHEF\tate\n\n a café’s naïve 食事 🙂 in Marby !"


@pytest.fixture(scope="module")
def pretrained(small_run):
    return electra_jax.load(small_run.run)


@pytest.fixture(scope="module")
def mlm(small_run, tmp_path_factory):
    run = tmp_path_factory.mktemp("mlm") / "run"
    run.mkdir()
    config = with_objective(read_config(small_run.run / "config.json"), "mlm")
    write_json(run / "config.json", to_json(config))
    shutil.copytree(small_run.run / "tokenizer", run / "tokenizer")
    zero = jax.numpy.zeros((), jax.numpy.int32)
    params = quick_jit(lambda: create_params(config, jax.random.key(0)))()
    checkpoints = Checkpoints(run / "checkpoints")
    checkpoints.save(7, TrainState(zero, params, {}, {"loss": jax.numpy.zeros(2)}, zero, zero), {"step": 7}, None)
    checkpoints.close()
    return electra_jax.load(run)


def forward(pretrained, method, *inputs):
    model = create_model(pretrained.config)
    return quick_jit(lambda params: model.apply({"params": params}, *inputs, method=method))(pretrained.params)


def copy_of(small_run, folder):
    return shutil.copytree(small_run.run, folder / "run")


def damage(run, step):
    victim = max((run / "checkpoints" / str(step) / "params").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0x10
    victim.write_bytes(content)


def test_loads_the_newest_checkpoint_and_only_its_parameters(pretrained, small_run):
    assert pretrained.step == STEPS
    assert pretrained.config == read_config(small_run.run / "config.json")
    shapes = jax.eval_shape(lambda: create_params(pretrained.config, jax.random.key(0)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), pretrained.params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(pretrained.params))


def test_loads_an_older_step_on_request(pretrained, small_run):
    older = electra_jax.load(small_run.run, step=STEPS - 10)
    assert older.step == STEPS - 10
    same = jax.tree.map(lambda a, b: bool((a == b).all()), older.params, pretrained.params)
    assert not all(jax.tree.leaves(same))
    with pytest.raises(UserError, match=rf"no checkpoint of step 7: choose among {STEPS - 10}, {STEPS}"):
        electra_jax.load(small_run.run, step=7)


@pytest.mark.filterwarnings("default:checkpoint")
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(small_run, tmp_path):
    run = copy_of(small_run, tmp_path)
    damage(run, STEPS)
    before = sorted(run.rglob("*"))
    said = []
    assert electra_jax.load(run, report=said.append).step == STEPS - 10
    with pytest.warns(UserWarning, match=f"{STEPS} is damaged .* the one of step {STEPS - 10} is used"):
        electra_jax.load(run)
    assert len(said) == 1
    with pytest.raises(MachineError, match="damaged"):
        electra_jax.load(run, step=STEPS)
    damage(run, STEPS - 10)
    with pytest.raises(MachineError, match=r"each is damaged .*20.*"):
        electra_jax.load(run)
    assert sorted(run.rglob("*")) == before  # nothing moved, written or removed


def test_what_a_running_save_leaves_is_neither_read_nor_touched(small_run, tmp_path):
    run = copy_of(small_run, tmp_path)
    writing = run / "checkpoints" / f"{STEPS + 10}.orbax-checkpoint-tmp"
    writing.mkdir()
    (run / "checkpoints" / str(STEPS) / "seal.json").unlink()
    assert electra_jax.load(run, report=pytest.fail).step == STEPS - 10
    assert writing.is_dir()


def test_a_run_without_a_checkpoint_says_so(small_run, tmp_path):
    run = copy_of(small_run, tmp_path)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint yet"):
        electra_jax.load(run)
    assert not (run / "checkpoints").exists()
    with pytest.raises(UserError, match="is not a run"):
        electra_jax.load(tmp_path / "nothing")


def test_importing_the_package_imports_no_jax():
    import subprocess

    code = "import sys, electra_jax; assert electra_jax.__all__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError):
        _ = electra_jax.nothing


@pytest.mark.parametrize("text", [SHORT, LONG, ODD])
def test_detected_tokens_stand_where_the_text_has_them(pretrained, text):
    (found,) = pretrained.detect([text])
    assert found.text == text
    assert [token.text for token in found.tokens] == [text[t.start : t.end] for t in found.tokens]
    assert len(found.tokens) == len(pretrained.tokenizer.encode(text).ids)
    covered = {at for token in found.tokens for at in range(token.start, token.end)}
    assert {at for at, c in enumerate(text) if not c.isspace()} <= covered
    assert [t.start for t in found.tokens] == sorted(t.start for t in found.tokens)
    assert all(0 < token.probability < 1 for token in found.tokens)


def test_company_in_a_batch_changes_no_probability(pretrained):
    texts = [SHORT, LONG, ODD, "A", *(f"{SHORT} {n}" for n in range(40))]
    together = pretrained.detect(texts)
    for number in (0, 1, 2, 3, 43):
        (alone,) = pretrained.detect([texts[number]])
        assert dataclasses.replace(together[number], tokens=[]) == dataclasses.replace(alone, tokens=[])
        found, wanted = ([t.probability for t in d.tokens] for d in (together[number], alone))
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert pretrained.detect([]) == []
    assert pretrained.detect(SHORT)[0].text == SHORT  # one text is taken as a list of one


def test_probabilities_are_those_of_the_plain_forward_pass(pretrained):
    ids = pretrained.tokenizer.encode(SHORT).ids
    row = np.array([[pretrained.special.cls, *ids, pretrained.special.sep]], np.int32)
    inputs = create_inputs(jax.numpy.asarray(row), pretrained.special)
    logits = forward(pretrained, Electra.rtd_logits, inputs)
    found = [token.probability for token in pretrained.detect([SHORT])[0].tokens]
    np.testing.assert_allclose(found, jax.nn.sigmoid(logits)[0, 1:-1], atol=1e-5)


def test_windows_hold_every_token_once_and_end_between_words():
    draw = np.random.default_rng(0)
    for _ in range(200):
        ids = draw.integers(0, 10, draw.integers(0, 100)).tolist()
        size = int(draw.integers(1, 12))
        parts = list(cut(ids, size, lambda token: token < 4))
        assert [at for first, last in parts for at in range(first, last)] == list(range(len(ids)))
        assert all(last - first <= size for first, last in parts)
        for first, last in parts[:-1]:
            inner = any(token < 4 for token in ids[first + 1 : last + 1])
            assert ids[last] < 4 or not inner


def test_rows_come_in_few_shapes_and_hold_their_windows():
    special = SpecialTokens(0, 1, 2, 3)
    draw = np.random.default_rng(0)
    windows = [[9] * int(draw.integers(1, 63)) for _ in range(200)]
    seen, shapes = {}, set()
    for numbers, rows in rows_of(windows, special, 64):
        shapes.add(rows.shape)
        assert len(rows) <= MOST_ROWS
        for number, row in zip(numbers, rows, strict=False):
            seen[number] = row[row != 0].tolist()
        assert not rows[len(numbers) :].any()
    assert [seen[n] for n in range(200)] == [[1, *window, 2] for window in windows]
    assert {length for _, length in shapes} == {16, 32, 64}


def test_masks_are_filled_in_order_of_probability(pretrained):
    text = f"[MASK] chef {LONG} ate [MASK]. The [MASK][MASK]!"
    filled = pretrained.fill_mask(text, top=4)
    assert [text[mask.start : mask.start + 6] for mask in filled.masks] == ["[MASK]"] * 4
    for mask in filled.masks:
        ps = [c.probability for c in mask.candidates]
        assert len(ps) == 4
        assert ps == sorted(ps, reverse=True)
        assert sum(ps) <= 1 + 1e-6
        assert [c.token for c in mask.candidates] == [pretrained.readable(c.id) for c in mask.candidates]
    every = pretrained.fill_mask("The chef [MASK]", top=10**6).masks[0].candidates
    assert len({c.id for c in every}) == pretrained.config.model.vocab_size
    assert sum(c.probability for c in every) == pytest.approx(1, abs=1e-5)


def test_masks_of_one_text_are_the_generators_own_view_of_the_row(pretrained):
    before, after = (pretrained.tokenizer.encode(part).ids for part in ("The chef ", " the meal"))
    special = pretrained.special
    row = jax.numpy.asarray([[special.cls, *before, special.mask, *after, special.sep]])
    slot = jax.numpy.asarray([[1 + len(before)]])
    logits = forward(pretrained, Electra.mlm_logits, create_inputs(row, special), slot)
    (mask,) = pretrained.fill_mask("The chef [MASK] the meal", 3).masks
    wanted = np.sort(jax.nn.softmax(logits[0, 0]))[::-1][:3]
    np.testing.assert_allclose([c.probability for c in mask.candidates], wanted, atol=1e-5)


def test_a_full_stop_after_a_mask_is_read_as_after_a_word(pretrained):
    ids = pretrained._encode_with_masks("The [MASK].").ids
    assert ids[-1:] == pretrained.tokenizer.encode("The a.").ids[-1:]
    assert ids[-2] == pretrained.special.mask


def test_what_cannot_be_filled_is_refused(pretrained):
    with pytest.raises(UserError, match=r"no \[MASK\]"):
        pretrained.fill_mask(SHORT)
    with pytest.raises(UserError, match="top must be at least 1"):
        pretrained.fill_mask("[MASK]", top=0)


@pytest.mark.parametrize("text", [SHORT, LONG])
def test_a_corrupted_text_is_labelled_by_comparison(pretrained, text):
    ids = pretrained.tokenizer.encode(text).ids
    found = pretrained.corrupt(text, seed=3)
    assert [token.original_id for token in found.tokens] == ids
    for token in found.tokens:
        assert token.replaced == (token.written_id != token.original_id)
        assert token.masked or not token.replaced
        assert 0 < token.probability < 1
    masked = sum(token.masked for token in found.tokens)
    windows = -(-len(ids) // (LENGTH - 2))
    assert abs(masked - 0.15 * (len(ids) + 2 * windows)) <= windows + 1
    assert any(token.replaced for token in found.tokens)


def test_with_replacement_what_was_chosen_is_still_told_apart(pretrained):
    """An unused slot may stand where a used one does, and must not hide it."""
    objective = dataclasses.replace(
        pretrained.config.objective, masked_positions="with_replacement", mask_token_prob=1.0
    )
    config = dataclasses.replace(pretrained.config, objective=objective)
    other = dataclasses.replace(pretrained, config=config)
    for seed in range(30):
        tokens = other.corrupt("The chef ate.", seed).tokens
        assert 1 <= sum(token.masked for token in tokens) <= max(1, round(0.15 * (len(tokens) + 2)))
        assert all(token.masked or not token.replaced for token in tokens)


def test_the_seed_alone_decides_the_corruption(pretrained):
    assert pretrained.corrupt(LONG, 5) == pretrained.corrupt(LONG, 5)
    masked = [tuple(t.masked for t in pretrained.corrupt(LONG, seed).tokens) for seed in range(4)]
    assert len(set(masked)) == 4
    with pytest.raises(UserError, match="seed"):
        pretrained.corrupt(SHORT, -1)


def test_the_suspicion_is_the_detectors_for_the_written_row(pretrained):
    found = pretrained.corrupt(SHORT, 3).tokens
    special = pretrained.special
    original = jax.numpy.asarray([[special.cls, *(t.original_id for t in found), special.sep]])
    written = jax.numpy.asarray([[special.cls, *(t.written_id for t in found), special.sep]])
    inputs = create_inputs(original, special)._replace(ids=written)
    logits = forward(pretrained, Electra.rtd_logits, inputs)
    np.testing.assert_allclose([t.probability for t in found], jax.nn.sigmoid(logits)[0, 1:-1], atol=1e-5)


def test_evaluation_repeats_the_runs_own(pretrained, small_run):
    data_set = open_data_set(small_run.data)
    last = read_metrics(small_run.run)[-1]
    found = pretrained.evaluate(data_set, pretrained.config.runtime.eval_rows)
    assert found.keys() == {key.removeprefix("eval/") for key in last if key.startswith("eval/")}
    for name, value in found.items():
        wanted = last[f"eval/{name}"]
        assert (wanted is None and np.isnan(value)) or value == pytest.approx(wanted, abs=1e-4), name
    assert pretrained.evaluate(data_set)["mlm_loss"] != found["mlm_loss"]


def test_evaluation_refuses_rows_it_cannot_read(pretrained, small_run):
    data_set = open_data_set(small_run.data)
    meta = json.loads(json.dumps(data_set.meta))
    meta["tokenizer"]["fingerprint"] = "0123456789abcdef"
    other = dataclasses.replace(data_set, meta=meta)
    with pytest.raises(UserError, match=f"0123456789ab.*{pretrained.tokenizer.fingerprint[:12]}"):
        pretrained.evaluate(other)
    with pytest.raises(UserError, match="rows must be at least 1"):
        pretrained.evaluate(data_set, 0)


@pytest.mark.parametrize("text", ["", "  \n ", "a\ud800b"])
def test_a_text_without_a_token_is_refused(pretrained, text):
    for use in (lambda: pretrained.detect([SHORT, text]), lambda: pretrained.corrupt(text)):
        with pytest.raises(UserError, match=r"no token|not valid Unicode"):
            use()


def test_an_mlm_run_fills_and_evaluates_but_detects_nothing(mlm, small_run):
    assert mlm.step == 7
    assert len(mlm.fill_mask("The [MASK] ate").masks) == 1
    assert mlm.evaluate(open_data_set(small_run.data), 16).keys() == {"mlm_loss", "mlm_accuracy", "generator_entropy"}
    for use in (lambda: mlm.detect([SHORT]), lambda: mlm.corrupt(SHORT)):
        with pytest.raises(UserError, match=r"this run has none \(objective mlm\)"):
            use()
