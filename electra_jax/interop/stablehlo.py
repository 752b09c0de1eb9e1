"""A model as functions in files (`jax.export`): to run them takes JAX and this module, not the model's code.

A folder holds one `NAME.stablehlo` a function, the parameters of all of them in `model.safetensors`, `tokenizer/`, and
`manifest.json`, which says what each function takes and gives. A function is StableHLO in the envelope that
`jax.export.deserialize` opens, for every platform and for any number of rows of any length. The parameters are its
first arguments: as constants inside it they would be written once a function, and compiled with it for each shape.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float
from safetensors.numpy import load_file

from electra_jax.errors import MachineError, UserError
from electra_jax.files import sha256_of
from electra_jax.text.tokenizer import Tokenizer, load_tokenizer

FORMAT, VERSION = "electra_jax stablehlo", 1
MANIFEST, WEIGHTS, TOKENIZER = "manifest.json", "model.safetensors", "tokenizer"


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """The functions of a folder, their parameters on the default device, and the tokenizer.

    Each takes token ids [batch, length], rows of `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]` with 0 behind, and is
    compiled once for each shape. Each raises UserError for what is no such array, for rows longer than `longest`, and
    where the model has no such function; an id outside the vocabulary gives NaN.
    """

    functions: Mapping[str, Callable[[Any], Array]]
    tokenizer: Tokenizer
    longest: int  # row that can come, [CLS] and [SEP] included
    manifest: Mapping[str, Any]

    def discriminator(self, ids: Any) -> Float[Array, "b l"]:
        """The log-odds that each token was replaced."""
        return self._call("discriminator", ids)

    def embeddings(self, ids: Any) -> Float[Array, "b l h"]:
        """The last hidden states: the discriminator's, or the generator's where it is alone."""
        return self._call("embeddings", ids)

    def task(self, ids: Any) -> Float[Array, "b *l n"]:
        """The fine-tuned head's scores: [batch, labels] for a sequence, else [batch, length, labels]."""
        return self._call("task", ids)

    def _call(self, name: str, ids: Any) -> Array:
        if name not in self.functions:
            raise UserError(f"this export has no {name}, only {', '.join(self.functions)}: export a model that has one")
        try:
            found = ids if isinstance(ids, jax.Array) else np.asarray(ids)
        except ValueError:
            raise UserError("the rows of token ids differ in length: put 0 behind the shorter ones") from None
        if found.ndim != 2 or 0 in found.shape or not jnp.issubdtype(found.dtype, jnp.integer):
            shape = f"{list(found.shape)} of {found.dtype}"
            raise UserError(f"token ids are integers [batch, length], not {shape}: give one row a text")
        if found.shape[1] > self.longest:
            raise UserError(f"the rows have {found.shape[1]} tokens, but {self.longest} is the most: cut the texts")
        return self.functions[name](found.astype(np.int32))


def load_stablehlo(folder: Path) -> ExportedModel:
    """Opens what `stablehlo_writer` wrote. Nothing is unpickled.

    Raises UserError where the folder is no such thing or lacks a file, MachineError where a file is damaged.
    """
    manifest = _read_manifest(folder)
    need_flatbuffers()
    try:
        longest, fingerprint, checksums = manifest["longest"], manifest["tokenizer"], manifest["sha256"]
        parameters = {name: entry["takes"]["parameters"] for name, entry in manifest["functions"].items()}
        files = {path: checksums[path.name] for path in (folder / WEIGHTS, *(file_of(folder, n) for n in parameters))}
    except (KeyError, TypeError, AttributeError) as error:
        raise MachineError(f"{folder / MANIFEST} is damaged ({error!r}): copy or export it again") from None
    for path, checksum in files.items():
        _check(path, checksum)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    if tokenizer.fingerprint != fingerprint:
        raise UserError(f"{folder / TOKENIZER} is not the tokenizer of this export: copy or export it again")
    exported = {name: _deserialize(file_of(folder, name), manifest) for name in parameters}
    tensors = load_file(folder / WEIGHTS)
    missing = sorted({name for names in parameters.values() for name in names} - tensors.keys())
    if missing:
        raise MachineError(f"{folder / WEIGHTS} does not hold {', '.join(missing[:3])}: copy or export it again")
    on_device = {name: jax.device_put(value) for name, value in tensors.items()}
    functions = {name: _bind(exported[name], [on_device[key] for key in names]) for name, names in parameters.items()}
    return ExportedModel(functions, tokenizer, longest, manifest)


def _bind(exported: export.Exported, parameters: list[Array]) -> Callable[[Any], Array]:
    call = jax.jit(exported.call)
    return lambda ids: call(parameters, ids)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no exported model, for it has no {MANIFEST}: name the folder of one") from None
    except (OSError, ValueError) as error:
        raise MachineError(f"{path} cannot be read ({error}): copy or export it again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} does not describe an exported model: name the folder of one")
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{path} is of version {manifest.get('version')!r}, but this electra_jax reads {VERSION}: install the one "
            "that wrote it"
        )
    return manifest


def _check(path: Path, checksum: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}): copy or export it again") from None
    if found != checksum:
        raise MachineError(f"{path} is damaged, for its checksum is another: copy or export it again")


def _deserialize(path: Path, manifest: dict[str, Any]) -> export.Exported:
    try:
        found = export.deserialize(bytearray(path.read_bytes()))
        found.mlir_module()  # the StableHLO within, which is otherwise first read when it is called
    except Exception as error:  # its bytes are those written, so this JAX cannot read that one's
        raise UserError(
            f"{path} was written by JAX {manifest.get('jax')} and cannot be opened by {jax.__version__} "
            f"({_first_line(error):.80}): export it again, or install that JAX or a newer one"
        ) from None
    return found


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def need_flatbuffers() -> None:
    """Raises UserError where the package is missing in which `jax.export` writes and reads."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("exported models need the package flatbuffers: pip install flatbuffers")


def file_of(folder: Path, artifact: str) -> Path:
    """Where a function stands."""
    return folder / f"{artifact}.stablehlo"
