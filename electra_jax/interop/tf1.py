"""Checkpoints of the published TensorFlow 1 code (google-research/electra), read by TensorFlow itself.

A checkpoint holds no settings: how many networks there are, and of which sizes, follows from its names and shapes.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from electra_jax.config import ModelConfig, PrepareConfig
from electra_jax.errors import UserError
from electra_jax.files import sha256_of
from electra_jax.interop.names import Leaf
from electra_jax.interop.portable import Portable, assemble
from electra_jax.interop.tensors import Foreign, read_networks
from electra_jax.model.sharing import Network
from electra_jax.networks import NetworksConfig
from electra_jax.text.tokenizer import open_tokenizer_file

Shapes = Mapping[str, tuple[int, ...]]

STATE, INDEX = "checkpoint", ".index"
STEP = "global_step"
# What stands beside the parameters, by the last part of the name. The temperature is the generator's, in released
# files, and the published code has no such variable; the last four are TensorFlow's own Adam's.
NOT_PARAMETERS = {STEP, "adam_m", "adam_v", "temperature", "Adam", "Adam_1", "beta1_power", "beta2_power"}
PARTS = {"kernel": "/kernel", "bias": "/bias", "scale": "/gamma", "table": ""}
MODULES = {"discriminator_predictions/dense_prediction": "discriminator_predictions/dense_1"}
# Of TensorFlow's libraries while they are loaded: oneDNN announces itself whatever the level of logging.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}


class Scopes(NamedTuple):
    """The first part of the names of one network's variables: of its embeddings, and of all below its head."""

    embeddings: str
    encoder: str


class Checkpoint(NamedTuple):
    """Each variable's shape, and the way to its values."""

    shapes: Shapes
    read: Callable[[str], np.ndarray]


def read_tf1(
    path: Path, vocabulary: Path, lower_case: bool = True, strip_accents: bool | None = None, head_size: int = 64
) -> Portable:
    """The model of a checkpoint, named by its folder, its prefix, or one of its files; with its vocab.txt.

    Shapes do not tell the number of attention heads: it is hidden size / `head_size`, at least 1 (published: 64).
    Raises UserError where TensorFlow is not installed, the checkpoint cannot be read, is not one of ELECTRA's, or has
    a vocabulary of another size.
    """
    prefix = find_prefix(path)
    config = PrepareConfig(out=prefix.parent, lower_case=lower_case, strip_accents=strip_accents)
    tokenizer = open_tokenizer_file(vocabulary, config)
    checkpoint = open_checkpoint(prefix)
    networks, found = build_networks(checkpoint, str(prefix), head_size)
    files = [Path(f"{prefix}{INDEX}"), *sorted(prefix.parent.glob(f"{escape(prefix.name)}.data-*"))]
    source = {
        "format": "tf1",
        "checkpoint": str(prefix),
        "global_step": int(checkpoint.read(STEP)) if STEP in checkpoint.shapes else None,
        "sha256": {str(file): sha256_of(file) for file in files},
    }
    return assemble(found, networks, tokenizer, source, str(prefix))


def find_prefix(path: Path) -> Path:
    """What the names of a checkpoint's files begin with.

    Raises UserError where the path names no checkpoint, or a folder of several and no `checkpoint` file chooses one.
    """
    if path.is_dir() or path.name == STATE:
        return _prefix_in(path if path.is_dir() else path.parent)
    prefix = path.with_name(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name))
    if not Path(f"{prefix}{INDEX}").is_file():
        raise UserError(
            f"{path} is no TensorFlow checkpoint, for there is no {prefix}{INDEX}: name the folder that holds one, or "
            "what its files' names begin with"
        )
    return prefix


def _prefix_in(folder: Path) -> Path:
    found = sorted(file.name.removesuffix(INDEX) for file in folder.glob(f"*{INDEX}"))
    if not found:
        raise UserError(f"{folder} holds no TensorFlow checkpoint, for no file there ends in {INDEX}: name its folder")
    if (folder / STATE).is_file():
        named = _named_by(folder / STATE)
        if named not in found:
            raise UserError(
                f"{folder / STATE} names {named!r}, but there is no {named}{INDEX} beside it: copy that, or name one "
                f"of {', '.join(found)} itself"
            )
        return folder / named
    if len(found) > 1:
        raise UserError(f"{folder} holds several checkpoints: name one of {', '.join(found)} itself")
    return folder / found[0]


def _named_by(state: Path) -> str:
    """The newest checkpoint's name; where it lay when it was written does not matter."""
    try:
        named = re.search(r'^model_checkpoint_path: *"(.+)"', state.read_text(encoding="utf-8"), re.MULTILINE)
        if named is None:
            raise ValueError("it names none")
        # Text protobuf escapes each byte that is not ASCII.
        return Path(named[1].encode().decode("unicode_escape").encode("latin-1").decode("utf-8")).name
    except (OSError, ValueError) as error:
        raise UserError(f"{state} does not say which checkpoint is the newest ({error}): name one itself") from None


def open_checkpoint(prefix: Path) -> Checkpoint:
    """Opens a checkpoint. Raises UserError, also on reading a variable later, where files are missing or damaged."""
    tensorflow = import_tensorflow()

    def ask(question: Callable[..., Any], *about: str) -> Any:
        try:
            return question(*about)
        except (tensorflow.errors.OpError, LookupError, RuntimeError, ValueError, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the checkpoint {prefix} cannot be read ({reason}): copy its {INDEX} and .data files again"
            ) from None

    reader = ask(tensorflow.train.load_checkpoint, str(prefix))
    shapes = {name: tuple(shape) for name, shape in ask(reader.get_variable_to_shape_map).items()}
    return Checkpoint(shapes, partial(ask, reader.get_tensor))


def import_tensorflow() -> Any:
    """TensorFlow, silently; reading a checkpoint touches none of its devices. Raises UserError where it is absent."""
    try:
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow
    except ImportError as error:
        raise UserError(f'TensorFlow reads its checkpoints ({error}): pip install -e ".[tf]"') from None
    return tensorflow


@contextmanager
def _quiet() -> Iterator[None]:
    ours = {name: value for name, value in QUIET.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def build_networks(
    checkpoint: Checkpoint, where: str, head_size: int = 64
) -> tuple[NetworksConfig, dict[str, Network]]:
    """The networks whose variables a checkpoint holds, every one of these accounted for.

    Raises UserError where they are not ELECTRA's, or do not fit together.
    """
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if name.split("/")[-1] not in NOT_PARAMETERS}
    scopes = find_scopes(shapes, where)
    networks = infer_networks(shapes, scopes, where, head_size)
    held = {
        network: {name: shape for name, shape in shapes.items() if name.startswith(_prefixes(network, own))}
        for network, own in scopes.items()
    }
    strange = {name: shape for name, shape in shapes.items() if not any(name in own for own in held.values())}
    next(iter(held.values())).update(strange)  # to be refused with what is missing
    formats = {network: Foreign(partial(tf1_name, own), lambda leaf: False) for network, own in scopes.items()}
    return networks, read_networks(networks, formats, held, lambda _, name: checkpoint.read(name), where)


def find_scopes(names: Iterable[str], where: str) -> dict[str, Scopes]:
    """Which networks there are, and under which names. Raises UserError where there is none.

    What the generator has no variables of its own for, it shares with the discriminator: the embeddings by default,
    the encoder with `untied_generator` off. So has the masked language model alone (`electra_objective` off).
    """
    scopes = {name.split("/")[0] for name in names}
    groups = {"/".join(name.split("/")[:2]) for name in names}
    if "bert" in scopes:
        raise UserError(f"{where} is a BERT checkpoint, for its names begin with bert/: name one of ELECTRA")
    found = {}
    has_generator = bool(scopes & {"generator", "generator_predictions"})
    own_encoder = "generator/encoder" in groups
    if "discriminator_predictions" in scopes or ("electra/encoder" in groups and (own_encoder or not has_generator)):
        found["discriminator"] = Scopes("electra", "electra")
    if has_generator:
        found["generator"] = Scopes(
            "generator" if "generator/embeddings" in groups else "electra", "generator" if own_encoder else "electra"
        )
    if not found:
        begin = ", ".join(sorted(scopes)[:4]) or "nothing at all"
        raise UserError(f"{where} is no ELECTRA checkpoint, for it holds {begin}: name one of the published code's")
    return found


def infer_networks(shapes: Shapes, scopes: Mapping[str, Scopes], where: str, head_size: int = 64) -> NetworksConfig:
    """Each network's sizes from the shapes of a few of its variables. Raises UserError where these are missing."""
    if head_size < 1:
        raise UserError(f"head_size is the units of one attention head, at least 1, not {head_size}")
    try:
        sizes = {name: _sizes(shapes, own, scopes, head_size) for name, own in scopes.items()}
        return NetworksConfig(discriminator=sizes.get("discriminator"), generator=sizes.get("generator"))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _sizes(shapes: Shapes, own: Scopes, scopes: Mapping[str, Scopes], head_size: int) -> ModelConfig:
    def size(name: str, axis: int) -> int:
        if len(shapes.get(name, ())) != 2:
            raise UserError(f"there is no matrix {name}, which tells the network's sizes: copy the whole checkpoint")
        return shapes[name][axis]

    embeddings, layer = f"{own.embeddings}/embeddings", f"{own.encoder}/encoder/layer_"
    hidden = size(f"{layer}0/attention/self/query/kernel", 1)
    if own.encoder == "electra" and hidden > head_size and hidden % head_size:
        raise UserError(f"heads of {head_size} do not divide {hidden} units: give its own --head-size")
    return ModelConfig(
        vocab_size=size(f"{embeddings}/word_embeddings", 0),
        embedding_size=size(f"{embeddings}/word_embeddings", 1),
        hidden_size=hidden,
        num_hidden_layers=len({name[len(layer) :].split("/")[0] for name in shapes if name.startswith(layer)}),
        num_attention_heads=max(1, hidden // head_size),
        intermediate_size=size(f"{layer}0/intermediate/dense/kernel", 1),
        max_position_embeddings=size(f"{embeddings}/position_embeddings", 0),
        type_vocab_size=size(f"{embeddings}/token_type_embeddings", 0),
        embedding_sharing="all" if len({scope.embeddings for scope in scopes.values()}) == 1 else "none",
    )


def tf1_name(scopes: Scopes, leaf: Leaf) -> str:
    """`electra/encoder/layer_0/attention/self/query/kernel` and the like."""
    if leaf.module == "generator_lm_head":
        return "generator_predictions/output_bias"
    scope = {"embeddings": f"{scopes.embeddings}/", "encoder": f"{scopes.encoder}/", "head": ""}[leaf.room]
    is_norm = leaf.module.endswith("LayerNorm")
    part = "/beta" if is_norm and leaf.part == "bias" else PARTS[leaf.part]
    return f"{scope}{MODULES.get(leaf.module, leaf.module)}{part}"


def _prefixes(network: str, scopes: Scopes) -> tuple[str, ...]:
    return f"{scopes.embeddings}/embeddings/", f"{scopes.encoder}/", f"{network}_predictions/"
