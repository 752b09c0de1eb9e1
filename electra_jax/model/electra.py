"""The two networks in one module, so that what they share is one array."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Key, UInt32

from electra_jax.config import ModelConfig, PretrainConfig, RuntimeConfig, SpecialTokens
from electra_jax.errors import UserError
from electra_jax.model.attention import ON_ONE_DEVICE, Kernels
from electra_jax.model.encoder import Embeddings, Encoder, Tables, TableSource, gelu, layer_norm
from electra_jax.model.implementations import EVERYWHERE
from electra_jax.model.initializers import matrix_init, projection_init
from electra_jax.model.inputs import Inputs, create_inputs
from electra_jax.model.spans import MASKED, SpanLogits, best_starts, can_be_answer
from electra_jax.model.task_heads import SpanHead, TaskHead
from electra_jax.networks import NetworksConfig, networks_of

# How the discriminator comes by its tables, for each `embedding_sharing` but "all", which needs none of its own.
DISCRIMINATOR_TABLES: dict[str, TableSource] = {"none": "own", "token": "word_given", "gdes": "difference"}


class Electra(nn.Module):
    """Generator and discriminator with their heads (paper, sections 3.1 and 3.2), as far as `networks` has them.

    `embeddings` is the group that both networks read with `embedding_sharing="all"`; else it is the generator's,
    and `discriminator_embeddings` holds what the discriminator has of its own.
    """

    networks: NetworksConfig
    kernels: Kernels = Kernels()

    def setup(self) -> None:
        networks = self.networks
        self.embeddings = Embeddings(networks.generator or networks.main, self.kernels)
        if networks.generator is not None:
            self.generator_encoder = Encoder(networks.generator, self.kernels)
            self.generator_predictions = MlmHead(networks.generator, self.kernels)
        if networks.discriminator is not None:
            if networks.sharing != "all":
                tables = DISCRIMINATOR_TABLES[networks.sharing]
                self.discriminator_embeddings = Embeddings(networks.discriminator, self.kernels, tables)
            self.discriminator_encoder = Encoder(networks.discriminator, self.kernels)
            if networks.task is None:
                self.discriminator_predictions = RtdHead(networks.discriminator, self.kernels)
            else:
                head: Any = SpanHead if networks.task.scores_spans_jointly else TaskHead
                self.task_head = head(networks.discriminator, networks.task, self.kernels)

    def mlm_logits(
        self, inputs: Inputs, slots: Int[Array, "b s"], dropout_seeds: UInt32[Array, "b 2"] | None = None
    ) -> Float[Array, "b s v"]:
        """The generator's float32 scores of the vocabulary at the given positions of each row, and nowhere else."""
        return self.vocabulary_logits(self.mlm_states(inputs, slots, dropout_seeds))

    def mlm_states(
        self, inputs: Inputs, slots: Int[Array, "b s"], dropout_seeds: UInt32[Array, "b 2"] | None = None
    ) -> Float[Array, "b s e"]:
        """What the generator's head compares with the words at the given positions of each row."""
        hidden = self.generator_hidden(inputs, dropout_seeds).reshape(*inputs.ids.shape, -1)
        at_slots = jnp.take_along_axis(hidden, slots[..., None], axis=1)
        return self.generator_predictions.states(at_slots.reshape(-1, hidden.shape[-1])).reshape(*slots.shape, -1)

    def vocabulary_logits(self, states: Float[Array, "b s e"]) -> Float[Array, "b s v"]:
        """The float32 scores of the vocabulary that the generator's head gives for these states."""
        logits = self.generator_predictions.logits(states.reshape(-1, states.shape[-1]), self.embeddings.read().word)
        return logits.reshape(*states.shape[:2], -1)

    def generator_hidden(
        self, inputs: Inputs, dropout_seeds: UInt32[Array, "b 2"] | None = None
    ) -> Float[Array, "t h"]:
        """The generator's last hidden states, [batch · length, hidden]."""
        return self.generator_encoder(self.embeddings(inputs), inputs, dropout_seeds)

    def discriminator_hidden(
        self, inputs: Inputs, dropout_seeds: UInt32[Array, "b 2"] | None = None, first_only: bool = False
    ) -> Float[Array, "q h"]:
        """The discriminator's last hidden states, [batch · length, hidden]; or each row's first, [batch, hidden]."""
        if self.networks.sharing == "all":
            embedded = self.embeddings(inputs)
        else:
            given: Tables = self.embeddings.read()
            embedded = self.discriminator_embeddings(inputs, given)
        return self.discriminator_encoder(embedded, inputs, dropout_seeds, first_only)

    def rtd_logits(self, inputs: Inputs, dropout_seeds: UInt32[Array, "b 2"] | None = None) -> Float[Array, "b l"]:
        """The discriminator's float32 log-odds that each token was replaced."""
        hidden = self.discriminator_hidden(inputs, dropout_seeds)
        return self.discriminator_predictions(hidden).reshape(inputs.ids.shape)

    def task_logits(self, inputs: Inputs, dropout_seeds: UInt32[Array, "b 2"] | None = None) -> Float[Array, "b *l n"]:
        """The fine-tuned head's float32 scores: [batch, labels] for a sequence, else [batch, length, labels].

        Raises UserError for the paper's question answering, which `span_logits` asks.
        """
        task = self.networks.task
        if task is not None and task.scores_spans_jointly:
            raise UserError(
                "a question-answering head in form 'paper' scores ends given a start, so it has no one score a token: "
                "ask its span_logits"
            )
        first_only = task is not None and task.name == "sequence_classification"  # its head reads [CLS] alone
        hidden = self.discriminator_hidden(inputs, dropout_seeds, first_only)
        return self.task_head(hidden.reshape(inputs.ids.shape[0], -1, hidden.shape[-1]), dropout_seeds)

    def span_logits(
        self,
        inputs: Inputs,
        starts: Int[Array, "b k"] | None,
        beam: int,
        dropout_seeds: UInt32[Array, "b 2"] | None = None,
    ) -> SpanLogits:
        """The question-answering head's scores: ends for the given starts, else for [CLS] and the `beam` likeliest.

        In Hugging Face's form the ends are the same whatever the start. Rows hold one example each.
        """
        hidden = self.discriminator_hidden(inputs, dropout_seeds).reshape(*inputs.ids.shape, -1)
        allowed = can_be_answer(inputs)
        task = self.networks.task
        assert task is not None
        assert task.name == "question_answering"
        if task.scores_spans_jointly:
            return self.task_head(hidden, allowed, starts, beam, dropout_seeds)
        logits = jnp.where(allowed[..., None], self.task_head(hidden, dropout_seeds), MASKED)
        start, end = logits[..., 0], logits[..., 1]
        starts = best_starts(start, beam) if starts is None else starts
        return SpanLogits(start, starts, jnp.broadcast_to(end[:, None], (*starts.shape, end.shape[-1])), None)

    def every_network(self, inputs: Inputs, slots: Int[Array, "b s"]) -> tuple[Array, ...]:
        """Each network that there is, on the same rows; initialisation calls it to create every parameter."""
        outputs: tuple[Array, ...] = ()
        if self.networks.generator is not None:
            outputs += (self.mlm_logits(inputs, slots),)
        if self.networks.discriminator is not None:
            if self.networks.task is None:
                outputs += (self.rtd_logits(inputs),)
            elif self.networks.task.scores_spans_jointly:
                outputs += (self.span_logits(inputs, starts=None, beam=1).end,)
            else:
                outputs += (self.task_logits(inputs),)
        return outputs


class MlmHead(nn.Module):
    """dense to the embedding size, GELU, LayerNorm, and the word table itself as the output matrix plus a bias."""

    config: ModelConfig
    kernels: Kernels

    def setup(self) -> None:
        c = self.config
        self.dense = nn.Dense(c.embedding_size, dtype=self.kernels.dtype, kernel_init=matrix_init(c))
        self.layer_norm = layer_norm(c, "layer_norm")
        self.bias = self.param("bias", nn.initializers.zeros_init(), (c.vocab_size,))

    def states(self, hidden: Float[Array, "m h"]) -> Float[Array, "m e"]:
        """What is compared with the words: cheap, beside the scores."""
        return self.layer_norm(gelu(self.dense(hidden))).astype(self.kernels.dtype)

    def logits(self, states: Float[Array, "m e"], word: Float[Array, "v e"]) -> Float[Array, "m v"]:
        # The table is cast here and not once for all chunks, whose gradients would then be summed in half precision.
        scores = jnp.dot(states, word.astype(self.kernels.dtype).T, preferred_element_type=jnp.float32)
        return add_bias(scores, self.bias)


@jax.custom_vjp
def add_bias(x: Float[Array, "m v"], bias: Float[Array, " v"]) -> Float[Array, "m v"]:
    """x + bias, whose gradient sums the rows by a matrix product.

    On a CPU, XLA's sum over the rows of a [300, 30522] array takes fifty times as long.
    """
    return x + bias


def _add_bias_backward(_: None, grad: Float[Array, "m v"]) -> tuple[Float[Array, "m v"], Float[Array, " v"]]:
    ones = jnp.ones((1, len(grad)), grad.dtype)
    return grad, jnp.dot(ones, grad, precision=jax.lax.Precision.HIGHEST)[0]


add_bias.defvjp(lambda x, bias: (x + bias, None), _add_bias_backward)


class RtdHead(nn.Module):
    """dense, GELU, one logit; no LayerNorm (published code)."""

    config: ModelConfig
    kernels: Kernels

    @nn.compact
    def __call__(self, hidden: Float[Array, "t h"]) -> Float[Array, " t"]:
        c, dtype = self.config, self.kernels.dtype
        x = gelu(nn.Dense(c.hidden_size, dtype=dtype, kernel_init=matrix_init(c), name="dense")(hidden))
        logits = nn.Dense(1, dtype=jnp.float32, kernel_init=projection_init(c), name="dense_prediction")(x)
        return logits[:, 0]


def create_model(config: PretrainConfig, platform: str | None = None, spread: PartitionSpec = ON_ONE_DEVICE) -> Electra:
    """The module of one run's settings, for a platform and for arrays that lie as `Kernels.spread` says.

    Without a platform it can be computed on any: what only one of them has gives way.
    """
    runtime: RuntimeConfig = config.runtime
    portable = platform is not None or runtime.attention in EVERYWHERE
    kernels = Kernels(
        dtype=runtime.dtype,
        attention=runtime.attention if portable else "auto",
        unroll_layers=runtime.unroll_layers,
        remat=runtime.remat,
        vocab_chunks=runtime.vocab_chunks,
        platform=platform,
        spread=spread,
    )
    return Electra(networks_of(config), kernels)


def create_params(config: PretrainConfig, key: Key[Array, ""]) -> dict[str, dict]:
    """Fresh parameters: both networks for `electra`, the generator alone for `mlm`."""
    return init_params(create_model(config), key)


def init_params(model: Electra, key: Key[Array, ""]) -> dict[str, dict]:
    """Fresh parameters of every network of the model."""
    inputs = create_inputs(jnp.zeros((1, 8), jnp.int32), SpecialTokens(0, 1, 2, 3))
    slots = jnp.zeros((1, 1), jnp.int32)
    return model.init(key, inputs, slots, method=Electra.every_network)["params"]


def shapes_of(model: Electra) -> Any:
    """The shapes of all parameters, without one of them."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def count_parameters(config: PretrainConfig) -> dict[str, int]:
    """Parameters each network reads, by `eval_shape`; the tied embeddings count in both, the tied output once."""
    params = shapes_of(create_model(config))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    counts = {"generator": sum(sizes[n] for n in ("embeddings", "generator_encoder", "generator_predictions"))}
    if "discriminator_encoder" in sizes:
        own = sizes["discriminator_encoder"] + sizes["discriminator_predictions"]
        own += sizes["embeddings"] if config.model.embedding_sharing == "all" else sizes["discriminator_embeddings"]
        if config.model.embedding_sharing == "token":
            own += config.model.vocab_size * config.model.embedding_size
        counts["discriminator"] = own
    return counts
