"""What a fine-tuning begins with: the encoder of a model that is there, or of none, and a fresh head for each seed."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from electra_jax.errors import UserError
from electra_jax.files import read_json
from electra_jax.finetune.config import FinetuneConfig
from electra_jax.finetune.folder import RESULTS, SETTINGS, START, has_trained, read_settings
from electra_jax.finetune.loading import load
from electra_jax.interop.portable import MODEL, Portable, write_imported
from electra_jax.model.attention import ON_ONE_DEVICE, Kernels, describe_attention
from electra_jax.model.electra import Electra, init_params, shapes_of
from electra_jax.model.sharing import Network, join, separate
from electra_jax.networks import NetworksConfig, TaskConfig
from electra_jax.networks import Task as HeadKind
from electra_jax.pretrain.pretrained import Pretrained
from electra_jax.tasks.task import Task
from electra_jax.text.tokenizer import Tokenizer

NONE = "none"
HEADS: dict[str, HeadKind] = {
    "classification": "sequence_classification",
    "regression": "sequence_classification",
    "tagging": "token_classification",
    "question_answering": "question_answering",
}


class Start(NamedTuple):
    """A model with the task's head, and how its parameters come about."""

    model: Electra
    tokenizer: Tokenizer
    encoder: Network | None  # None: every seed draws its own
    story: str  # for people

    def params(self, seeds: UInt32[Array, " m"], encoder: Network | None) -> Any:
        """The parameters of each member, stacked: the head, and where there is no encoder all, drawn by its seed.

        `encoder` is `self.encoder`, given as an argument so that it is no constant of a compiled program.
        """

        def one(seed: UInt32[Array, ""]) -> Any:
            fresh = init_params(self.model, jax.random.key(seed))
            if encoder is None:
                return fresh
            head = separate(fresh, self.model.networks)["discriminator"].head
            return join({"discriminator": encoder._replace(head=head)}, self.model.networks)

        return jax.vmap(one, out_axes=0)(jnp.asarray(seeds))


def open_source(model: str, like: str | None, report: Callable[[str], None], step: int | None = None) -> Pretrained:
    """What `--model`, or `--like` where it is none, names. Raises UserError where there is no model."""
    if model == NONE and like is None:
        raise UserError("--model none needs --like MODEL: the folder whose sizes and tokenizer it is to have")
    return load(Path(like if model == NONE and like is not None else model).expanduser(), step, report=report)


def open_again(
    out: Path, model: str, like: str | None, report: Callable[[str], None], step: int | None = None
) -> Pretrained:
    """`open_source` for an `out` that may have begun: what it began with, though its run has gone on since."""
    if model == NONE or not (out / SETTINGS).is_file() or read_settings(out)[0].model != model:
        return open_source(model, like, report, step)
    if (out / RESULTS).is_file():
        return load(out)
    return (read_start(out / START, step) if has_trained(out) else None) or open_source(model, like, report, step)


def read_start(folder: Path, step: int | None) -> Pretrained | None:
    """What `keep_start` kept; None where it kept nothing, or something of another step than the one asked for."""
    if not (folder / MODEL).is_file():
        return None
    (about,) = read_json(folder / MODEL, "choose a new --out", "source")
    return dataclasses.replace(load(folder), step=about["step"]) if step in (None, about["step"]) else None


def keep_start(folder: Path, source: Pretrained) -> None:
    """Writes what a fine-tuning begins with into its folder, unless it is there."""
    if not folder.is_dir():
        about = {"format": "start", "step": source.step}
        write_imported(folder, Portable(source.model.networks, jax.device_get(source.params), source.tokenizer, about))


def head_of(task: Task, form: str) -> TaskConfig:
    """The head that a task needs; `task` has its labels."""
    problem = {"classification": "single_label_classification", "regression": "regression"}.get(task.kind)
    labels = {"regression": ("score",), "question_answering": ("start", "end")}.get(task.kind, task.labels)
    return TaskConfig(
        name=HEADS[task.kind],
        labels=labels,
        problem_type=problem,  # type: ignore[arg-type]
        form=form,  # type: ignore[arg-type]
        answerability=task.answerability and form == "paper",
        dropout=0.0 if task.kind == "tagging" and form == "paper" else None,
    )


def create_start(config: FinetuneConfig, source: Pretrained) -> Start:
    """Puts the task's head on the source's main network.

    Raises UserError where rows would be too long for it, and where its attention cannot be computed as asked for.
    """
    rate = config.dropout
    sizes = dataclasses.replace(source.model.networks.main, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    if sizes.position == "absolute" and config.length > sizes.max_position_embeddings:
        raise UserError(
            f"rows of {config.length} tokens are too long, for the model has {sizes.max_position_embeddings} learned "
            f"positions: pass --length {sizes.max_position_embeddings}"
        )
    networks = NetworksConfig(discriminator=sizes, task=head_of(config.task, config.head))
    runtime = config.runtime
    devices = jax.local_devices()
    kernels = Kernels(
        runtime.dtype,
        runtime.attention,
        runtime.unroll_layers,
        platform=devices[0].platform,
        spread=ON_ONE_DEVICE if len(devices) == 1 else None,  # the members' axis is vmapped, and no kernel sees it
    )
    describe_attention(networks, kernels, [8 * -(-config.length // 8)])  # the longest bucket there can be
    model = Electra(networks, kernels)
    if config.model == NONE:
        return Start(model, source.tokenizer, None, f"random weights in the sizes of {config.like}")
    found = separate(jax.device_get(source.params), source.model.networks)
    name = "generator" if source.model.networks.discriminator is None else "discriminator"
    step = f" at step {source.step:,}" if source.step else ""
    return Start(model, source.tokenizer, found[name], f"the {name} of {config.model}{step}")


def fingerprint(networks: NetworksConfig, tokenizer: Tokenizer, params: Any) -> str:
    """A checksum of what a fine-tuning begins with: tokenizer and weights, or the shapes of random ones."""
    shapes = {} if params is not None else shapes_of(Electra(networks, Kernels()))
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes or params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
        if params is not None:
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
