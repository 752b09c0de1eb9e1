"""A run, loaded to be used: which tokens look replaced, what stands behind a mask, what the generator writes."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from electra_jax.config import ObjectiveConfig, PretrainConfig, SpecialTokens
from electra_jax.errors import UserError
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain.answers import Candidate, CorruptedToken, Corruption, Detection, Filled, Filling, Token
from electra_jax.pretrain.corruption import create_row_keys
from electra_jax.pretrain.evaluation import evaluate, make_eval_step
from electra_jax.pretrain.objectives import OBJECTIVES, Params
from electra_jax.pretrain.windows import cut, rows_of
from electra_jax.text.loader import fixed_batches
from electra_jax.text.rows import DataSet
from electra_jax.text.tokenizer import Encoding, Tokenizer

MASK = "[MASK]"
EVAL_BATCH = 32  # rows; fewer where the run's batch is smaller
HEADS = {
    "generator_predictions": "a generator",
    "discriminator_predictions": "a discriminator",
    "task_head": "a fine-tuned head",
}


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Networks with their tokenizer: a run's at one step, or a published model's.

    Texts longer than a row are cut into windows between words; nothing of them is left out.
    """

    model: Electra
    params: Params = dataclasses.field(repr=False)
    tokenizer: Tokenizer
    length: int  # tokens of a row, [CLS] and [SEP] included
    objective: ObjectiveConfig  # how `corrupt` and `evaluate` mask
    rows_at_once: int = EVAL_BATCH  # of an evaluation
    step: int = 0
    config: PretrainConfig | None = None  # the run's; None for a model from elsewhere

    @property
    def special(self) -> SpecialTokens:
        return self.tokenizer.special

    def detect(self, texts: Iterable[str]) -> list[Detection]:
        """The probability of each token of being replaced, by the discriminator.

        Raises UserError for a text without a token, and where the run has no discriminator.
        """
        self._require("detect", "discriminator_predictions")
        texts = [texts] if isinstance(texts, str) else list(texts)
        encodings = [self._encode(text) for text in texts]
        probabilities = self._by_token(_detect, [encoding.ids for encoding in encodings])
        return [
            Detection(
                text, [Token(text[s:e], s, e, p) for (s, e), p in zip(encoding.offsets, found.tolist(), strict=True)]
            )
            for text, encoding, found in zip(texts, encodings, probabilities, strict=True)
        ]

    def embed(self, texts: Iterable[str]) -> list[Float[np.ndarray, "tokens hidden"]]:
        """The last hidden state of each token of each text: the discriminator's, or of a generator that is alone.

        Raises UserError for a text without a token.
        """
        texts = [texts] if isinstance(texts, str) else texts
        return self._by_token(_embed, [self._encode(text).ids for text in texts])

    def task_logits(self, texts: Iterable[str | tuple[str, str]]) -> list[Float[np.ndarray, "*tokens labels"]]:
        """The fine-tuned head's scores of each text or pair of texts: of the whole, or of each of its tokens.

        Of a pair's tokens, [SEP] stands between the two. `model.networks.task.labels` names the scores.
        Raises UserError for a text without a token or too long for a row, and where nothing was fine-tuned.
        """
        self._require("task_logits", "task_head")
        windows = []
        for text in [texts] if isinstance(texts, str) else texts:
            parts = (text,) if isinstance(text, str) else text
            ids = [self._encode(part).ids for part in parts]
            windows.append([*ids[0], *(token for part in ids[1:] for token in (self.special.sep, *part))])
            if len(windows[-1]) > self.length - 2:
                raise UserError(f"the text {parts[0]!r:.60} has more than {self.length - 2} tokens: shorten it")
        task = self.model.networks.task
        assert task is not None
        if task.name != "sequence_classification":
            return self._by_token(_task, windows)
        found = dict(self._ask(_task, windows))
        return [found[number] for number in range(len(windows))]

    def fill_mask(self, text: str, top: int = 5) -> Filled:
        """The generator's `top` likeliest tokens for each [MASK] of the text.

        Raises UserError for a text without a [MASK].
        """
        self._require("fill-mask", "generator_predictions")
        if top < 1:
            raise UserError(f"top must be at least 1, not {top}")
        top = min(top, self.tokenizer.vocab_size)
        encoding = self._encode_with_masks(text)
        fillings: list[Filling] = []
        start = 0
        for window in self._windows(encoding.ids):
            slots = [at + 1 for at, token in enumerate(window) if token == self.special.mask]
            if slots:
                ((_, row),) = rows_of([window], self.special, self.length)
                padded = np.zeros((1, 1 << (len(slots) - 1).bit_length()), np.int32)
                padded[0, : len(slots)] = slots
                probabilities, tokens = jax.device_get(_fill(self.model, self.special, self.params, row, padded, top))
                fillings += [
                    Filling(
                        encoding.offsets[start + slot - 1][0],
                        [Candidate(self.readable(int(t)), int(t), float(p)) for t, p in zip(ids, ps, strict=True)],
                    )
                    for slot, ids, ps in zip(slots, tokens[0], probabilities[0], strict=False)
                ]
            start += len(window)
        return Filled(text, fillings)

    def corrupt(self, text: str, seed: int = 0) -> Corruption:
        """Masks the text as in training, lets the generator write, and asks the discriminator about the result.

        The same text and seed give the same result. Raises UserError as `detect` does.
        """
        self._require("corrupt", "generator_predictions", "discriminator_predictions")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must be in [0, 2³²), not {seed}")
        encoding = self._encode(text)
        windows = list(self._windows(encoding.ids))
        length = self.length
        tokens: list[CorruptedToken] = []
        # Rows of full length, so that slots and draws are those of training whatever the text's own length.
        for numbers, rows in rows_of(windows, self.special, length, length):
            row_numbers = np.arange(len(rows), dtype=np.int32) + numbers[0]
            outputs = _corrupt(
                self.model, self.special, self.objective, self.params, rows, row_numbers, np.uint32(seed)
            )
            for number, written, masked, probability in zip(numbers, *jax.device_get(outputs), strict=False):
                for at, original in enumerate(windows[number], 1):
                    new = int(written[at])
                    tokens.append(
                        CorruptedToken(
                            original=self.readable(original),
                            written=self.readable(new),
                            original_id=original,
                            written_id=new,
                            start=encoding.offsets[len(tokens)][0],
                            end=encoding.offsets[len(tokens)][1],
                            masked=bool(masked[at]),
                            replaced=new != original,
                            probability=float(probability[at]),
                        )
                    )
        return Corruption(text, seed, tokens)

    def evaluate(self, data_set: DataSet, rows: int | None = None) -> dict[str, float]:
        """The metrics of `pretrain.evaluation` on the data set's held-out rows, or the first `rows` of them.

        Raises UserError where the data set was made with another tokenizer, does not fit, or holds no such row.
        """
        heads = ("generator_predictions", "discriminator_predictions")
        self._require("evaluate", *(heads if self.objective.has_discriminator else heads[:1]))
        theirs = data_set.meta["tokenizer"]["fingerprint"]
        if theirs != self.tokenizer.fingerprint:
            raise UserError(
                f"the data set {data_set.folder} was made with another tokenizer ({theirs[:12]}) than the run's "
                f"({self.tokenizer.fingerprint[:12]}): prepare it with the run's, by --tokenizer-file RUN/tokenizer"
            )
        model = self.model.networks.main
        if model.position == "absolute" and data_set.length > model.max_position_embeddings:
            raise UserError(
                f"the rows of {data_set.folder} have {data_set.length} tokens, but the run only learned "
                f"{model.max_position_embeddings} positions: prepare them with --length {self.length}"
            )
        if rows is not None and rows < 1:
            raise UserError(f"rows must be at least 1, not {rows}")
        if not len(data_set.valid):
            raise UserError(f"{data_set.folder} holds no held-out rows: prepare it with --valid-share above 0")
        size = self.rows_at_once
        batches = (
            (ids, np.arange(number * size, (number + 1) * size, dtype=np.int32))
            for number, ids in enumerate(fixed_batches(data_set.valid, size, rows))
        )
        step = partial(_measure, self.model, self.special, self.objective)
        return evaluate(step, self.params, batches, data_set.unigram)

    def readable(self, token: int) -> str:
        """A piece of the vocabulary as people write it, whatever the tokenizer: `the`, and `##ing` within a word."""
        piece = self.tokenizer.piece(token)
        if self.tokenizer.starts_word(token):
            return piece.removeprefix("▁") or piece
        return f"##{piece}" if piece[:1].isalnum() else piece

    def _encode(self, text: str) -> Encoding:
        check_text(text)
        encoding = self.tokenizer.encode(text)
        if not encoding.ids:
            raise UserError(f"the text {text!r:.60} holds no token: give at least one word")
        return encoding

    def _encode_with_masks(self, text: str) -> Encoding:
        """`tokenizer.encode` of what stands between the masks, which no tokenizer reads out of a text."""
        parts = text.split(MASK)
        if len(parts) == 1:
            raise UserError(f"the text has no {MASK} to fill: write {MASK} in the place of a word")
        check_text(text)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        start = 0
        for number, part in enumerate(parts):
            if number:
                ids.append(self.special.mask)
                offsets.append((start, start + len(MASK)))
                start += len(MASK)
            found = self._encode_after_word(part) if number else None
            if found is None:
                found = self.tokenizer.encode(part)
            ids += found.ids
            offsets += [(start + s, start + e) for s, e in found.offsets]
            start += len(part)
        return Encoding(ids, offsets)

    def _encode_after_word(self, part: str) -> Encoding | None:
        """What follows a mask without a space (`[MASK].`), read as it would be after a word instead of as one.

        None where the tokenizer joins it to the word that stands in.
        """
        if not part or part[0].isspace():
            return None
        ids, offsets = self.tokenizer.encode("a" + part)
        if offsets[0] != (0, 1) or not self.tokenizer.starts_word(ids[0]):
            return None
        return Encoding(ids[1:], [(s - 1, e - 1) for s, e in offsets[1:]])

    def _by_token(self, function: Any, texts: list[list[int]]) -> list[np.ndarray]:
        """What a function says of each token of each text, windows put together."""
        windows = [list(self._windows(ids)) for ids in texts]
        flat = [window for those in windows for window in those]
        found = {number: row[1 : len(flat[number]) + 1] for number, row in self._ask(function, flat)}
        parts = iter(found[number] for number in range(len(flat)))
        return [np.concatenate([next(parts) for _ in those]) for those in windows]

    def _ask(self, function: Any, windows: list[list[int]]) -> Iterator[tuple[int, np.ndarray]]:
        """(which window, what a function says of its row)."""
        for numbers, rows in rows_of(windows, self.special, self.length):
            yield from zip(numbers, np.asarray(function(self.model, self.special, self.params, rows)), strict=False)

    def _windows(self, ids: list[int]) -> Iterable[list[int]]:
        size = self.length - 2  # [CLS] and [SEP]
        return (ids[first:last] for first, last in cut(ids, size, self.tokenizer.starts_word))

    def _require(self, what: str, *heads: str) -> None:
        """Raises UserError where a head that is asked for is not there."""
        missing = [head for head in heads if head not in self.params]
        if missing:
            raise UserError(f"{what} asks {HEADS[missing[0]]}, and {self._why_without(missing[0])}")

    def _why_without(self, head: str) -> str:
        networks = self.model.networks
        if networks.task is not None and head == "discriminator_predictions":
            return f"this one was fine-tuned for {networks.task.name}: take the model that it was before"
        if head == "task_head":
            return "this one was pre-trained only: take a fine-tuned one"
        if self.config is not None:
            return "this run has none (objective mlm): take a run with objective electra"
        if head == "generator_predictions":
            return "this model came without one: import it with --generator"
        return "this model is a generator alone: import its discriminator"


def check_text(text: str) -> None:
    """Raises UserError where a text is not valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the text {text!r:.60} is not valid Unicode at character {error.start + 1}") from None


# Compiled once for each shape and model, however many runs are loaded; the model and its special tokens come first.
_jit = partial(jax.jit, static_argnums=(0, 1))
_jit_with_objective = partial(jax.jit, static_argnums=(0, 1, 2))


@_jit
def _detect(model: Electra, special: SpecialTokens, params: Params, ids: Int[Array, "b l"]) -> Array:
    """Each token's probability of having been replaced, [batch, length]."""
    logits: Any = model.apply({"params": params}, create_inputs(ids, special), method=Electra.rtd_logits)
    return jax.nn.sigmoid(logits)


@_jit
def _embed(model: Electra, special: SpecialTokens, params: Params, ids: Int[Array, "b l"]) -> Float[Array, "b l h"]:
    alone = model.networks.discriminator is None
    method = Electra.generator_hidden if alone else Electra.discriminator_hidden
    hidden: Any = model.apply({"params": params}, create_inputs(ids, special), method=method)
    return hidden.reshape(*ids.shape, -1)


@_jit
def _task(model: Electra, special: SpecialTokens, params: Params, ids: Int[Array, "b l"]) -> Float[Array, "b *l n"]:
    logits: Any = model.apply({"params": params}, create_inputs(ids, special), method=Electra.task_logits)
    return logits


@partial(jax.jit, static_argnums=(0, 1, 5))
def _fill(
    model: Electra,
    special: SpecialTokens,
    params: Params,
    ids: Int[Array, "b l"],
    slots: Int[Array, "b s"],
    top: int,
) -> tuple[Float[Array, "b s k"], Int[Array, "b s k"]]:
    """(probabilities, tokens) of the likeliest tokens at each slot."""
    logits: Any = model.apply({"params": params}, create_inputs(ids, special), slots, method=Electra.mlm_logits)
    probabilities, tokens = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top)
    return probabilities, tokens


@_jit_with_objective
def _corrupt(
    model: Electra,
    special: SpecialTokens,
    objective: ObjectiveConfig,
    params: Params,
    ids: Int[Array, "b l"],
    row_numbers: Int[Array, " b"],
    seed: Array,
) -> tuple[Int[Array, "b l"], Bool[Array, "b l"], Float[Array, "b l"]]:
    """(what is written, whether it was chosen, the probability of being replaced) of each token."""
    inputs = create_inputs(ids, special)
    keys = create_row_keys(jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(row_numbers))
    outputs = OBJECTIVES[objective.name].compute(model, params, inputs, keys, objective, special, False)
    rows = jnp.arange(len(ids))[:, None]
    # `max`, because slots may share a place, an unused one with one that is used.
    masked = jnp.zeros(ids.shape, bool).at[rows, outputs.masking.slots].max(outputs.masking.slot_mask)
    assert outputs.corrupted is not None
    assert outputs.rtd_logits is not None
    return outputs.corrupted, masked, jax.nn.sigmoid(outputs.rtd_logits)


@_jit_with_objective
def _measure(model: Electra, special: SpecialTokens, objective: ObjectiveConfig, *batch: Any) -> dict[str, Any]:
    return make_eval_step(objective, model, special)(*batch)
