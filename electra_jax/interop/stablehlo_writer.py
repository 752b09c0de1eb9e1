"""Writes a model as functions in files; `stablehlo.py` says what the folder holds, and opens it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jaxtyping import Array
from safetensors.numpy import save

from electra_jax.errors import UserError
from electra_jax.files import sha256_of, write_file, write_json
from electra_jax.interop.stablehlo import FORMAT, MANIFEST, TOKENIZER, VERSION, WEIGHTS, file_of, need_flatbuffers
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.model.sharing import join, separate
from electra_jax.networks import NetworksConfig
from electra_jax.settings import to_json
from electra_jax.text.tokenizer import Tokenizer

PLATFORMS = ("cpu", "cuda", "tpu")
MEANINGS = {
    "discriminator": "log-odds that each token was replaced",
    "embeddings": "last hidden states of each token",
    "task": "scores of the fine-tuned head",
}
IDS = "token ids: [CLS] first, 0 behind the end; what is given for padding means nothing"


def write_stablehlo(
    folder: Path, networks: NetworksConfig, params: Any, tokenizer: Tokenizer, longest: int | None = None
) -> None:
    """Writes into a new folder what the model has of `discriminator`, `embeddings` and `task`.

    `longest` is the longest row that the functions take, `max_position_embeddings` unless given.
    Raises UserError where learned positions do not reach so far, and for the paper's question answering.
    """
    need_flatbuffers()
    sizes = networks.main
    longest = sizes.max_position_embeddings if longest is None else longest
    if sizes.position == "absolute" and longest > sizes.max_position_embeddings:
        raise UserError(
            f"rows of {longest} tokens cannot be exported, for the model has {sizes.max_position_embeddings} positions"
        )
    if networks.task is not None and networks.task.scores_spans_jointly:
        raise UserError(
            "this head of question_answering is the paper's (task form 'paper'), whose ends are scored given a start, "
            "so no one function of a row's ids is its scores: fine-tune with --head huggingface to export"
        )
    # One network by itself: with GDES its tables are sums, which are taken here and not at every call.
    name = "generator" if networks.discriminator is None else "discriminator"
    alone = NetworksConfig(**{name: sizes}, task=networks.task)
    own = join({name: separate(params, networks)[name]}, alone)
    tensors = {key: np.asarray(value) for key, value in flatten_dict(own, sep="/").items()}
    functions = {}
    folder.mkdir(parents=True, exist_ok=True)
    for artifact, rooms in _rooms(alone).items():
        read = {key: value for key, value in tensors.items() if key.split("/")[0] in rooms}
        exported = _export(artifact, alone, read, tokenizer, longest)
        write_file(file_of(folder, artifact), bytes(exported.serialize()))
        functions[artifact] = _describe(artifact, exported, list(read))
    write_file(folder / WEIGHTS, save(tensors))
    tokenizer.save(folder / TOKENIZER)
    files = [folder / WEIGHTS, *(file_of(folder, artifact) for artifact in functions)]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
        "longest": longest,
        "special": tokenizer.special._asdict(),
        "tokenizer": tokenizer.fingerprint,
        "networks": to_json(alone),
        "functions": functions,
        "sha256": {path.name: sha256_of(path) for path in files},
    }
    write_json(folder / MANIFEST, manifest)


def _rooms(networks: NetworksConfig) -> dict[str, set[str]]:
    """Each function of a network that is alone, and which of its parameters it reads."""
    if networks.discriminator is None:
        return {"embeddings": {"embeddings", "generator_encoder"}}
    body = {"embeddings", "discriminator_encoder"}
    if networks.task is None:
        return {"discriminator": {*body, "discriminator_predictions"}, "embeddings": body}
    return {"embeddings": body, "task": {*body, "task_head"}}


def _export(
    artifact: str, networks: NetworksConfig, params: dict[str, np.ndarray], tokenizer: Tokenizer, longest: int
) -> export.Exported:
    # A loop over the layers: a third of the size and of the time to compile at 12 layers, and as fast.
    model = Electra(networks, Kernels(attention="xla", unroll_layers=False, longest=longest))
    hidden = Electra.generator_hidden if networks.discriminator is None else Electra.discriminator_hidden
    method = {"discriminator": Electra.rtd_logits, "embeddings": hidden, "task": Electra.task_logits}[artifact]

    def function(parameters: list[Array], ids: Array) -> Array:
        tree = unflatten_dict(dict(zip(params, parameters, strict=True)), sep="/")
        outputs: Any = model.apply({"params": tree}, create_inputs(ids, tokenizer.special), method=method)
        return outputs.reshape(*ids.shape, -1) if artifact == "embeddings" else outputs

    shape = export.symbolic_shape("batch, length", constraints=[f"length <= {longest}"])
    leaves = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in params.values()]
    # Kept even where unused, so that the arguments are those of the manifest.
    whole = jax.jit(function, keep_unused=True)
    return export.export(whole, platforms=PLATFORMS)(leaves, jax.ShapeDtypeStruct(shape, jnp.int32))


def _describe(artifact: str, exported: export.Exported, names: list[str]) -> dict[str, Any]:
    (*_, ids), (outputs,) = exported.in_avals, exported.out_avals

    def array(aval: Any, meaning: str) -> dict[str, Any]:
        shape = [size if isinstance(size, int) else str(size) for size in aval.shape]
        return {"shape": shape, "dtype": str(aval.dtype), "meaning": meaning}

    return {
        "takes": {"parameters": names, "ids": array(ids, IDS)},
        "gives": array(outputs, MEANINGS[artifact]),
        "calling_convention": exported.calling_convention_version,
    }
