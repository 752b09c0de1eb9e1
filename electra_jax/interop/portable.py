"""A model from elsewhere, whole: networks, parameters, tokenizer; and the folder that keeps it here."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from electra_jax.config import ModelConfig, Sharing
from electra_jax.errors import UserError
from electra_jax.files import new_folder, read_json, sha256_of, write_json
from electra_jax.interop import huggingface
from electra_jax.interop.hf_tokenizer import BACKEND, SETTINGS, read_tokenizer
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra, shapes_of
from electra_jax.model.sharing import Network, join, separate
from electra_jax.networks import MUST_AGREE, NetworksConfig
from electra_jax.settings import from_json, to_json
from electra_jax.text.sentencepiece import MODEL as SENTENCEPIECE
from electra_jax.text.tokenizer import Tokenizer, load_tokenizer
from electra_jax.text.wordpiece import VOCABULARY
from electra_jax.training.checkpoint import read_params, write_params

# Of a Hugging Face folder, beside the weights.
READ = {huggingface.CONFIG, huggingface.INDEX, VOCABULARY, BACKEND, SETTINGS, SENTENCEPIECE}
MODEL, TOKENIZER, CHECKPOINTS = "model.json", "tokenizer", "checkpoints"


class Portable(NamedTuple):
    """Networks with what they need, and where they are from."""

    networks: NetworksConfig
    params: Any
    tokenizer: Tokenizer
    source: dict[str, Any]  # format, folders and checksums


def read_huggingface(folder: Path, generator: Path | None = None) -> Portable:
    """The model of a Hugging Face folder; with `generator`, the discriminator of one and the generator of the other.

    Raises UserError where a folder cannot be read, or the two do not belong together.
    """
    networks, network = huggingface.read_folder(folder)
    tokenizer = read_tokenizer(folder)
    name = "generator" if networks.discriminator is None else "discriminator"
    found, folders = {name: network}, {name: folder}
    if generator is not None:
        other, its_network = huggingface.read_folder(generator)
        if other.generator is None or networks.discriminator is None:
            wrong, needed = (generator, "generator") if other.generator is None else (folder, "discriminator")
            raise UserError(
                f"{wrong} holds no {needed}: name the discriminator by --from, the generator by --generator"
            )
        if read_tokenizer(generator).fingerprint != tokenizer.fingerprint:
            raise UserError(f"{folder} and {generator} have different tokenizers: they do not belong together")
        found, folders = {**found, "generator": its_network}, {**folders, "generator": generator}
        apart = dataclasses.replace(networks.discriminator, embedding_sharing="none")  # until `assemble` has looked
        networks = dataclasses.replace(networks, discriminator=apart, generator=other.generator)
    files = [path for place in folders.values() for path in sorted(place.iterdir()) if _is_read(path)]
    source = {
        "format": "huggingface",
        "folders": {network: str(path.resolve()) for network, path in folders.items()},
        "sha256": {str(path.resolve()): sha256_of(path) for path in files},
    }
    return assemble(found, networks, tokenizer, source, str(folder))


def assemble(
    found: dict[str, Network], networks: NetworksConfig, tokenizer: Tokenizer, source: dict[str, Any], where: str
) -> Portable:
    """Puts the networks together, and finds out what of their embeddings is one array.

    Raises UserError where the vocabularies' sizes differ.
    """
    for name, sizes in networks.each.items():
        if sizes.vocab_size != tokenizer.vocab_size:
            raise UserError(
                f"{where}: the tokenizer has {tokenizer.vocab_size:,} pieces, but the {name}'s vocabulary is of "
                f"{sizes.vocab_size:,}: name the vocabulary that it was trained with"
            )
    if networks.discriminator is not None and networks.generator is not None:
        sharing = _shared(found, networks.each)
        networks = dataclasses.replace(
            networks,
            discriminator=dataclasses.replace(networks.discriminator, embedding_sharing=sharing),
            generator=dataclasses.replace(networks.generator, embedding_sharing=sharing),
        )
    return Portable(networks, join(found, networks), tokenizer, source)


def _shared(found: dict[str, Network], sizes: dict[str, ModelConfig]) -> Sharing:
    """As much as the two networks agree in, by their settings and to the bit."""
    one, other = found["generator"].embeddings, found["discriminator"].embeddings

    def agree(sharing: Sharing, *tables: str) -> bool:
        settings = (len({getattr(config, name) for config in sizes.values()}) == 1 for name in MUST_AGREE[sharing])
        equal = (jax.tree.all(jax.tree.map(np.array_equal, one[name], other[name])) for name in tables)
        return all(settings) and all(equal)

    return "all" if agree("all", *one) else "token" if agree("token", "word_embeddings") else "none"


def _is_read(path: Path) -> bool:
    return path.name in READ or path.suffix == Path(huggingface.WEIGHTS).suffix


def describe(model: Portable) -> str:
    """One line: the networks, their sizes, what they share, and the tokenizer."""
    parts = []
    for name, network in sorted(separate(model.params, model.networks).items()):
        sizes = model.networks.each[name]
        count = sum(leaf.size for leaf in jax.tree.leaves(tuple(network)))
        shape = f"{sizes.num_hidden_layers} × {sizes.hidden_size}, {sizes.num_attention_heads} heads"
        parts.append(f"{name} {shape}, {count:,} parameters")
    if model.networks.task is not None:
        parts.append(f"{model.networks.task.name} of {len(model.networks.task.labels)} labels")
    if len(parts) == 2 and model.networks.generator is not None:
        shared = {"all": "the embeddings are shared", "token": "the word embeddings are shared"}
        parts.append(shared.get(model.networks.sharing, "nothing is shared"))
    settings = model.tokenizer.settings
    parts.append(f"{settings['kind']} of {settings['vocab_size']:,} pieces, {'un' * settings['lower_case']}cased")
    return "; ".join(parts)


def write_imported(out: Path, model: Portable) -> None:
    """Keeps a model in a new folder: model.json, tokenizer/, checkpoints/0.

    Raises UserError where `out` holds anything already.
    """
    with new_folder(out) as folder:
        write_portable(folder, model)


def write_portable(folder: Path, model: Portable) -> None:
    """Writes a model into a folder that is there, model.json last, over what an interrupted writing left."""
    for name in (TOKENIZER, CHECKPOINTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    model.tokenizer.save(folder / TOKENIZER)
    write_params(folder / CHECKPOINTS, 0, model.params)
    write_json(folder / MODEL, {"networks": to_json(model.networks), "source": model.source})


def read_imported(folder: Path) -> Portable:
    """Opens what `write_imported` wrote. Raises UserError where it is not that, MachineError where it is damaged."""
    path = folder / MODEL
    values, source = read_json(path, "import the model again", "networks", "source")
    networks = from_json(NetworksConfig, values, str(path))

    shapes = shapes_of(Electra(networks, Kernels()))
    _, params = read_params(folder / CHECKPOINTS, shapes, 0, report=lambda _: None)  # there is no other to fall back to
    return Portable(networks, params, load_tokenizer(folder / TOKENIZER), source)
