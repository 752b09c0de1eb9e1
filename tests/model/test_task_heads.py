"""The heads of fine-tuned networks in both their forms, against NumPy where they are new."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import LABELS, TINY, padded_rows, random_params
from scipy.special import erf, log_softmax, softmax
from tiny_models import PAPER, SPECIAL, assert_trees_equal, make_keys, quick_jit
from tiny_models import TINY as RECENT

from electra_jax.errors import UserError
from electra_jax.model.attention import Kernels
from electra_jax.model.dropout import create_seeds
from electra_jax.model.electra import Electra, init_params, shapes_of
from electra_jax.model.inputs import create_inputs
from electra_jax.model.spans import MASKED, can_be_answer
from electra_jax.model.task_heads import PAIR_SIZE
from electra_jax.networks import NetworksConfig, TaskConfig

ROWS, LENGTH, BEAM = 4, 24, 5
SEQUENCE = {"name": "sequence_classification", "labels": LABELS}
TOKENS = {"name": "token_classification", "labels": LABELS}
SPANS = {"name": "question_answering", "labels": ("start", "end")}
SPAN_TASKS = {
    "huggingface": TaskConfig(**SPANS),
    "paper": TaskConfig(**SPANS, form="paper"),
    "answerability": TaskConfig(**SPANS, form="paper", answerability=True),
}
TASKS = {
    **SPAN_TASKS,
    **{f"sequence {form}": TaskConfig(**SEQUENCE, form=form) for form in ("huggingface", "paper")},
    **{f"tokens {form}": TaskConfig(**TOKENS, form=form) for form in ("huggingface", "paper")},
}
IDS = padded_rows(3, ROWS, LENGTH, TINY.vocab_size)  # every other row has two segments
INPUTS = create_inputs(jnp.asarray(IDS), SPECIAL)


def model_of(task, **changes):
    sizes = dataclasses.replace(TINY, **changes)
    return Electra(NetworksConfig(discriminator=sizes, task=task), Kernels(unroll_layers=False))


@functools.cache
def params_of(task):
    return random_params(model_of(task).networks)


def apply_spans(task, params, starts, beam=BEAM):
    return model_of(task).apply({"params": params}, INPUTS, starts, beam, method=Electra.span_logits)


spans_of = quick_jit(apply_spans, static_argnums=(0, 3))


@functools.partial(quick_jit, static_argnums=(0,))
def scores_of(task, params):
    return model_of(task).apply({"params": params}, INPUTS, method=Electra.task_logits)


@functools.cache
def hidden():
    apply = functools.partial(model_of(SPAN_TASKS["paper"]).apply, method=Electra.discriminator_hidden)
    found = quick_jit(lambda params: apply({"params": params}, INPUTS))(params_of(SPAN_TASKS["paper"]))
    return np.asarray(found).reshape(ROWS, LENGTH, -1)


def np_dense(x, p):
    return x @ p["kernel"] + p["bias"]


def np_pair(first, second, p):
    x = np_dense(np.concatenate([first, second], axis=-1), p["dense"])
    return np_dense(x * (1 + erf(x / np.sqrt(2))) / 2, p["output"])[..., 0]


def shape_of(task):
    return jax.tree.map(lambda leaf: leaf.shape, shapes_of(model_of(task))["task_head"])


def test_parameters_of_each_head():
    h = TINY.hidden_size
    dense = {"kernel": (h, h), "bias": (h,)}
    labels, ends, one = ({"kernel": (h, n), "bias": (n,)} for n in (3, 2, 1))
    pair = {
        "dense": {"kernel": (2 * h, PAIR_SIZE), "bias": (PAIR_SIZE,)},
        "output": {"kernel": (PAIR_SIZE, 1), "bias": (1,)},
    }
    assert {name: shape_of(task) for name, task in TASKS.items()} == {
        "huggingface": {"output": ends},
        "paper": {"start": one, "end": pair},
        "answerability": {"start": one, "end": pair, "no_answer": pair},
        "sequence huggingface": {"dense": dense, "output": labels},
        "sequence paper": {"output": labels},
        "tokens huggingface": {"output": labels},
        "tokens paper": {"output": labels},
    }


@pytest.mark.parametrize("name", TASKS)
def test_heads_begin_as_glorot_has_it(name):
    head = quick_jit(lambda: init_params(model_of(TASKS[name]), jax.random.key(0)))()["task_head"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(head):
        bound = np.sqrt(6 / sum(leaf.shape)) if path[-1].key == "kernel" else 0
        assert 0.7 * bound <= jnp.abs(leaf).max() <= bound, path


def test_the_paper_s_sequence_head_is_one_matrix_on_cls():
    task = TASKS["sequence paper"]
    params = params_of(SPAN_TASKS["paper"]) | {"task_head": params_of(task)["task_head"]}
    found = scores_of(task, params)
    assert found.shape == (ROWS, 3)
    np.testing.assert_allclose(found, np_dense(hidden()[:, 0], params["task_head"]["output"]), atol=1e-5)


@pytest.mark.parametrize("attention", ["einsum", "xla"])
@pytest.mark.parametrize("form", [PAPER, RECENT], ids=["paper", "recent"])
def test_the_last_layer_computes_cls_alone_without_a_difference(form, attention):
    """Unrolled, it leaves out what no one reads; scores and gradients, dropout included, are those of whole layers."""
    rate = 0.3 if attention == "einsum" else 0.0
    sizes = dataclasses.replace(TINY, **form, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    networks = NetworksConfig(discriminator=sizes, task=TASKS["sequence paper"])
    params, seeds = random_params(networks), create_seeds(make_keys(ROWS))

    def loss(unroll, params):
        model = Electra(networks, Kernels(attention=attention, unroll_layers=unroll))
        scores = model.apply({"params": params}, INPUTS, seeds, method=Electra.task_logits)
        return jnp.sin(scores).sum(), scores

    whole, first = (
        quick_jit(jax.grad(functools.partial(loss, unroll), has_aux=True))(params) for unroll in (False, True)
    )
    np.testing.assert_allclose(first[1], whole[1], atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), first[0], whole[0])


@pytest.mark.parametrize("form", [PAPER, RECENT], ids=["paper", "recent"])
def test_the_last_layer_is_cheaper_for_cls_alone(form):
    """A classifier costs clearly less than a tagger, which reads all tokens."""

    def cost(task):
        networks = NetworksConfig(discriminator=dataclasses.replace(TINY, **form), task=task)
        model = Electra(networks, Kernels())
        apply = functools.partial(model.apply, method=Electra.task_logits)
        lowered = jax.jit(lambda params: apply({"params": params}, INPUTS)).lower(shapes_of(model))
        return lowered.cost_analysis()["flops"]

    assert cost(TASKS["sequence paper"]) < 0.8 * cost(TASKS["tokens paper"])


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("dropout", [None, 0.0, 0.5])
def test_dropout_is_where_the_form_has_it_and_at_the_rate_that_is_set(name, dropout):
    """The paper's heads have some on [CLS] only; a rate that is set holds for each of its heads."""
    task = dataclasses.replace(TASKS[name], dropout=dropout)
    expected = task.form == "huggingface" or name == "sequence paper" if dropout is None else dropout > 0
    if name == "huggingface":
        expected = False  # as Hugging Face's class
    model = model_of(task, hidden_dropout_prob=0.1 if dropout is None else 0.0, attention_probs_dropout_prob=0.0)
    seeds = create_seeds(make_keys(ROWS))
    states = jnp.asarray(hidden())

    def head(module, seeds):
        if task.name != "question_answering" or task.form == "huggingface":
            return module.task_head(states, seeds)
        return module.task_head(states, can_be_answer(INPUTS), jnp.ones((ROWS, 1), jnp.int32), 1, seeds).end

    apply = quick_jit(lambda params, seeds: model.apply({"params": params}, seeds, method=head))
    params = params_of(TASKS[name])
    assert bool((apply(params, seeds) != apply(params, None)).any()) == expected


def test_answers_are_in_the_context_or_at_cls():
    for row, allowed in zip(IDS.tolist(), np.asarray(can_be_answer(INPUTS)), strict=True):
        seps = [at for at, token in enumerate(row) if token == SPECIAL.sep]
        context = range(seps[0] + 1, seps[1]) if len(seps) == 2 else ()
        assert [at for at, answer in enumerate(allowed) if answer] == [0, *context]


@pytest.mark.parametrize("name", SPAN_TASKS)
def test_masked_positions_never_win(name):
    task = SPAN_TASKS[name]
    logits = spans_of(task, params_of(task), None)
    allowed = np.asarray(can_be_answer(INPUTS))
    assert logits.start.shape == (ROWS, LENGTH)
    assert logits.starts.shape == (ROWS, BEAM + 1)
    assert logits.end.shape == (ROWS, BEAM + 1, LENGTH)
    assert logits.start.dtype == logits.end.dtype == jnp.float32
    for scores, mask in ((logits.start, allowed), (logits.end, np.broadcast_to(allowed[:, None], logits.end.shape))):
        assert (np.asarray(scores)[~mask] == MASKED).all()
        assert (softmax(scores, axis=-1)[~mask] == 0).all()
        assert np.abs(np.asarray(scores)[mask]).max() < 100
    # The beam: [CLS], then the likeliest of the context.
    for row in range(ROWS):
        order = [at for at in np.argsort(-np.asarray(logits.start[row]), kind="stable") if at > 0]
        assert logits.starts[row].tolist() == [0, *order[:BEAM]]


def test_the_paper_s_head_in_numpy():
    task = SPAN_TASKS["answerability"]
    params = params_of(SPAN_TASKS["paper"]) | {"task_head": params_of(task)["task_head"]}
    logits, head, states = spans_of(task, params, None), params["task_head"], hidden()
    allowed = np.asarray(can_be_answer(INPUTS))
    for row in range(ROWS):
        start = np.where(allowed[row], np_dense(states[row], head["start"])[:, 0], -np.inf)
        np.testing.assert_allclose(logits.start[row][allowed[row]], start[allowed[row]], atol=1e-5)
        expected = softmax(start) @ states[row]
        np.testing.assert_allclose(
            logits.no_answer[row], np_pair(states[row, 0], expected, head["no_answer"]), atol=1e-5
        )
        for at, of in enumerate(logits.starts[row].tolist()):
            end = np_pair(np.broadcast_to(states[row, of], states[row].shape), states[row], head["end"])
            np.testing.assert_allclose(logits.end[row, at][allowed[row]], end[allowed[row]], atol=1e-5)


def test_ends_depend_on_the_start_in_the_paper_s_form_only():
    for name, depends in (("huggingface", False), ("paper", True)):
        task = SPAN_TASKS[name]
        end = np.asarray(spans_of(task, params_of(task), jnp.tile(jnp.array([1, 2]), (ROWS, 1))).end)
        row = 1  # of two segments
        allowed = np.asarray(can_be_answer(INPUTS))[row]
        apart = np.abs(log_softmax(end[row, 0][allowed]) - log_softmax(end[row, 1][allowed])).max()
        assert (apart > 1e-2) == depends


@pytest.mark.parametrize("name", SPAN_TASKS)
def test_given_starts_are_scored_as_the_beam_s(name):
    task = SPAN_TASKS[name]
    beam = spans_of(task, params_of(task), None)
    for at in (0, BEAM):
        given = spans_of(task, params_of(task), beam.starts[:, at : at + 1])
        np.testing.assert_array_equal(given.starts, beam.starts[:, at : at + 1])
        np.testing.assert_allclose(given.end, beam.end[:, at : at + 1], atol=1e-5)
        np.testing.assert_allclose(given.start, beam.start, atol=1e-5)
        if task.answerability:
            np.testing.assert_allclose(given.no_answer, beam.no_answer, atol=1e-5)
    assert (beam.no_answer is None) == (name != "answerability")


def test_hugging_face_s_spans_are_its_scores():
    task = SPAN_TASKS["huggingface"]
    scores, logits = scores_of(task, params_of(task)), spans_of(task, params_of(task), None)
    allowed = np.asarray(can_be_answer(INPUTS))
    np.testing.assert_allclose(logits.start[allowed], scores[..., 0][allowed], atol=1e-6)
    for at in range(BEAM + 1):
        np.testing.assert_allclose(logits.end[:, at][allowed], scores[..., 1][allowed], atol=1e-6)


@pytest.mark.parametrize("name", SPAN_TASKS)
def test_gradients_reach_every_head_parameter_and_are_numbers(name):
    task = SPAN_TASKS[name]
    gold = jnp.argmax(can_be_answer(INPUTS) & (jnp.arange(LENGTH) > 0), axis=1)  # 0 in rows of one segment
    assert ((gold > 0) == jnp.array([False, True, False, True])).all()

    @quick_jit
    @jax.grad
    def gradient(params):
        logits = apply_spans(task, params, gold[:, None])
        loss = -sum(jax.nn.log_softmax(scores)[jnp.arange(ROWS), gold] for scores in (logits.start, logits.end[:, 0]))
        return loss.mean() + (jax.nn.softplus(logits.no_answer).mean() if task.answerability else 0.0)

    grads = gradient(params_of(task))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    # What is added to every position's score alike moves no probability.
    shifts = {("output", "bias"), ("start", "bias"), ("end", "output", "bias")}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads["task_head"]):
        reached = jnp.abs(leaf).max() > 1e-5
        assert reached == (tuple(entry.key for entry in path) not in shifts), path


def test_members_are_scored_as_each_alone():
    task = SPAN_TASKS["answerability"]
    members = [random_params(model_of(task).networks, seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    together = quick_jit(jax.vmap(lambda params: apply_spans(task, params, None)))(stacked)
    for number, params in enumerate(members):
        alone = spans_of(task, params, None)
        np.testing.assert_array_equal(together.starts[number], alone.starts)
        np.testing.assert_allclose(together.end[number], alone.end, atol=1e-5)
        np.testing.assert_allclose(together.no_answer[number], alone.no_answer, atol=1e-5)


def test_bfloat16_scores_are_near_and_come_as_float32():
    task = SPAN_TASKS["answerability"]
    model = Electra(model_of(task).networks, Kernels(dtype="bfloat16", unroll_layers=False))
    starts = jnp.tile(jnp.array([0, 16]), (ROWS, 1))
    apply = functools.partial(model.apply, method=Electra.span_logits)
    found = quick_jit(lambda params: apply({"params": params}, INPUTS, starts, 0))(params_of(task))
    exact = spans_of(task, params_of(task), starts)
    for part in ("start", "end", "no_answer"):
        assert getattr(found, part).dtype == jnp.float32
        np.testing.assert_allclose(getattr(found, part), getattr(exact, part), atol=0.3)


def test_rows_shorter_than_the_beam():
    task = SPAN_TASKS["paper"]
    logits = spans_of(task, params_of(task), None, 2 * LENGTH)
    assert logits.starts.shape == (ROWS, LENGTH)
    assert (np.sort(logits.starts, axis=1) == np.arange(LENGTH)).all()


def test_the_paper_s_question_answering_has_no_score_a_token():
    task = SPAN_TASKS["paper"]
    with pytest.raises(UserError, match="span_logits"):
        scores_of(task, params_of(task))


def test_forms_that_there_are_not():
    for values in ({**SPANS}, {**SEQUENCE, "form": "paper"}, {**TOKENS, "form": "paper"}):
        with pytest.raises(UserError, match="answerability belongs to question answering in form 'paper'"):
            TaskConfig(**values, answerability=True)
    with pytest.raises(UserError, match="form"):
        TaskConfig(**SPANS, form="google")


def test_tagging_is_the_same_in_both_forms():
    tasks = (TASKS["tokens huggingface"], TASKS["tokens paper"])
    assert_trees_equal(*(scores_of(task, params_of(tasks[0])) for task in tasks))
