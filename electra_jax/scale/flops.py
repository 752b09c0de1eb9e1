"""The FLOPs ledger: what a run costs by the paper's way of counting, and by what is really computed.

Both are pure functions of the settings, so that compute can be an axis of a sweep or a plot.
"""

from typing import NamedTuple

from electra_jax.config import ModelConfig, PretrainConfig, generator_model, num_slots
from electra_jax.model.flops import encoder_flops, forward_flops, mlm_head_flops, rtd_head_flops

# Operations an element, as the published counting has them. The compiler counts much the same: LayerNorm 7 and an
# erf GELU 4 plus a transcendental; its dropout, a hash of integers here, is 20 and more.
DROPOUT, LAYER_NORM, ACTIVATION, SOFTMAX = 4, 5, 8, 5
# Share of the positions at which the published counting has the MLM head: BERT's 20 of 128 and 80 of 512. Large, which
# masks 25%, comes to the published 7.1e20 with this share only.
PAPER_OUTPUT_SHARE = 20 / 128

# Train FLOPs of the paper's runs, by its own way of counting (its tables round both Small ones to 1.4e18).
PUBLISHED = {
    "ELECTRA-Small": 1.29e18,
    "BERT-Small": 1.42e18,
    "ELECTRA-Base": 6.4e19,
    "ELECTRA-400K": 7.1e20,
    "ELECTRA-1.75M": 3.1e21,
}


class Line(NamedTuple):
    """Floating-point operations of one step: of its forward pass, and of all that follows from it."""

    forward: int
    backward: int

    @property
    def train(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


class PaperFlops(NamedTuple):
    """One step by the paper's way of counting. A network holds its encoder, element by element; no look-ups."""

    look_ups: Line
    generator: Line
    mlm_head: Line
    discriminator: Line
    rtd_head: Line


class StepFlops(NamedTuple):
    """One step by what is computed. The first four are matrix products alone: together, what MFU counts."""

    generator: Line
    mlm_head: Line
    discriminator: Line
    rtd_head: Line
    elementwise: Line  # of both networks and heads
    optimizer: Line  # Muon's products; Adam has none


def together(lines: PaperFlops | StepFlops) -> Line:
    """The sum of the lines."""
    return Line(sum(line.forward for line in lines), sum(line.backward for line in lines))


def paper_train_flops(config: PretrainConfig) -> float:
    """FLOPs of a whole run by the paper's way of counting: see `paper_step_flops`."""
    return float(config.train.steps * together(paper_step_flops(config)).train)


def train_flops(config: PretrainConfig) -> float:
    """FLOPs of a whole run by what is computed: see `step_flops`."""
    return float(config.train.steps * together(step_flops(config)).train)


def paper_step_flops(config: PretrainConfig) -> PaperFlops:
    """One step as the paper counts (appendix, "Counting FLOPs"), by the facts of its published counting.

    Each token costs: the look-ups of word, position and token type as dense products with a one-hot vector,
    2·(vocabulary + length + types)·embedding size in each network; every product and every element of the encoder;
    the RTD head, and the MLM head at `PAPER_OUTPUT_SHARE` of the positions. Training is the forward pass times two.

    Where it is generous or wrong. A look-up is a copy: its product, two fifths of Small's total, is never computed.
    The backward pass costs twice the forward pass, so training is three times it, not two. The two errors nearly
    make up for each other in Small (1.29e18, and 1.17e18 computed) and do not in Large (7.1e20, and 9.2e20). The
    share of predicted positions is a constant, too small for Large's 25%, so `objective.mask_prob` changes nothing.
    Losses, sampling and the optimizer cost nothing.
    """
    rows, length, model, generator = config.train.batch_size, config.data.length, config.model, generator_model(config)
    tokens, both = rows * length, config.objective.has_discriminator
    positions = length if model.position == "absolute" else 0
    look_up = tokens * 2 * model.embedding_size * (model.vocab_size + positions + model.type_vocab_size)

    def encoder(network: ModelConfig) -> int:
        return encoder_flops(network, rows, length) + encoder_elementwise(network, rows, length)

    slots = round(PAPER_OUTPUT_SHARE * tokens)
    forward = (
        look_up * (2 if both else 1),
        encoder(generator),
        mlm_head_flops(generator, slots) + mlm_head_elementwise(generator, slots),
        encoder(model) if both else 0,
        rtd_head_flops(model, tokens) + rtd_head_elementwise(model, tokens) if both else 0,
    )
    return PaperFlops(*(Line(flops, flops) for flops in forward))


def step_flops(config: PretrainConfig) -> StepFlops:
    """One step by what is computed: look-ups free, the MLM head at the slots there are, backward twice forward.

    `elementwise` is an estimate, the paper's costs an element at the real sizes, RoPE and the convolution with it.
    Left out: losses, sampling, the scatter of the embeddings' gradient, Adam's twenty operations a parameter and the
    gradient of the MLM bias, which together are about a thousandth of a step of Small or Base; and what is computed
    twice, by `runtime.remat` or by attention where it keeps no probabilities. Micro-batches change nothing. A test
    holds the total against the compiler's own count.
    """
    rows, length, generator = config.train.batch_size, config.data.length, generator_model(config)
    products = forward_flops(config)
    slots = rows * num_slots(config.objective, length)
    elementwise = encoder_elementwise(generator, rows, length) + mlm_head_elementwise(generator, slots)
    if config.objective.has_discriminator:
        elementwise += encoder_elementwise(config.model, rows, length)
        elementwise += rtd_head_elementwise(config.model, rows * length)
    lines = [Line(flops, 2 * flops) for flops in (*products, elementwise)]
    lines.append(Line(0, muon_flops(config)))
    return StepFlops(*lines)


def encoder_elementwise(model: ModelConfig, rows: int, length: int) -> int:
    """One forward pass of embeddings and encoder over [rows, length] tokens, without products and look-ups."""
    e, h = model.embedding_size, model.hidden_size
    dropout = DROPOUT if model.hidden_dropout_prob else 0
    attention_dropout = DROPOUT if model.attention_probs_dropout_prob else 0
    sums = 2 if model.position == "absolute" else 1
    embeddings = e * (sums + LAYER_NORM + dropout) + (h if e != h else 0)
    # Each score is scaled, goes through the softmax and is dropped out; query, key and value have a bias.
    attention = 3 * h + model.num_attention_heads * length * (1 + SOFTMAX + attention_dropout)
    intermediate = model.intermediate_size * (1 + ACTIVATION)
    # Bias, dropout, residual sum, LayerNorm: once behind the attention and once behind the feed-forward part.
    outputs = 2 * h * (1 + dropout + 1 + LAYER_NORM)
    rotation = 2 * 3 * h if model.position == "rope" else 0  # query and key: two products and a sum an element
    layer = attention + intermediate + outputs + rotation + 2 * model.convolution_width * h
    last = h * LAYER_NORM if model.norm == "pre" else 0
    return rows * length * (embeddings + model.num_hidden_layers * layer + last)


def mlm_head_elementwise(generator: ModelConfig, slots: int) -> int:
    """Bias, GELU and LayerNorm of the dense layer; bias and softmax over the vocabulary."""
    head = generator.embedding_size * (1 + ACTIVATION + LAYER_NORM)
    return slots * (head + generator.vocab_size * (1 + SOFTMAX))


def rtd_head_elementwise(model: ModelConfig, tokens: int) -> int:
    """Bias and GELU of the dense layer; the logit's bias."""
    return tokens * (model.hidden_size * (1 + ACTIVATION) + 1)


def muon_flops(config: PretrainConfig) -> int:
    """The products of Muon's orthogonalisation in one update; 0 under Adam.

    Each of `muon_steps` Newton-Schulz steps on an [m, n] matrix, m ≤ n, takes A = X·Xᵀ, A·A and B·X. It does not grow
    with the batch, so it weighs where batches are small: a tenth of a step of the preset `tiny`.
    """
    if config.optimizer.name != "muon":
        return 0
    generator = generator_model(config)
    shapes = [*_encoder_matrices(generator), (generator.hidden_size, generator.embedding_size)]
    if config.objective.has_discriminator:
        shapes += [*_encoder_matrices(config.model), (config.model.hidden_size, config.model.hidden_size)]
    sides = [(min(shape), max(shape)) for shape in shapes]
    return config.optimizer.muon_steps * sum(4 * m * m * n + 2 * m**3 for m, n in sides)


def _encoder_matrices(model: ModelConfig) -> list[tuple[int, int]]:
    """The shapes of an encoder's hidden matrices, those that Muon updates."""
    h, i = model.hidden_size, model.intermediate_size
    project = [(model.embedding_size, h)] if model.embedding_size != h else []
    return project + model.num_hidden_layers * [(h, h), (h, h), (h, h), (h, h), (h, i), (i, h)]
