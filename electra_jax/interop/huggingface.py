"""Hugging Face folders of ELECTRA: config.json and model.safetensors, there and back.

Nothing is unpickled. The tokenizer's files are `hf_tokenizer`'s.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from electra_jax.config import ModelConfig
from electra_jax.errors import UserError
from electra_jax.files import write_file, write_json
from electra_jax.interop.names import Head, Leaf
from electra_jax.interop.tensors import Foreign, head_of, read_networks, write_network
from electra_jax.model.sharing import Network
from electra_jax.networks import NetworksConfig, TaskConfig

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ARCHITECTURES: dict[str, Head] = {
    "ElectraForPreTraining": "discriminator",
    "ElectraForMaskedLM": "generator",
    "ElectraForSequenceClassification": "sequence_classification",
    "ElectraForTokenClassification": "token_classification",
    "ElectraForQuestionAnswering": "question_answering",
}
# The settings both sides have, and what Transformers takes where a file leaves one out.
SHARED = {
    "vocab_size": 30522,
    "embedding_size": 128,
    "hidden_size": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}
# What Transformers knows how to do and this project's ELECTRA does not.
FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pad_token_id": 0,
}
# What this project knows how to do and Transformers' ELECTRA does not.
EXPRESSIBLE = {"position": "absolute", "norm": "post", "convolution_width": 0}
# Constants that older files keep beside the weights.
BUFFERS = {"electra.embeddings.position_ids", "electra.embeddings.token_type_ids"}
TIED = "generator_lm_head.weight"
WORDS = "electra.embeddings.word_embeddings.weight"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "model.bin")
OTHERS = ("tf_model.h5", "flax_model.msgpack")
# Into the same folder, where the tokenizer is.
CONVERT = (
    "nothing is unpickled here, so if you trust it, convert it with transformers and torch: python -c "
    "\"from transformers import {cls} as M; M.from_pretrained('{folder}').save_pretrained('{folder}')\""
)


class HfConfig(NamedTuple):
    """What a folder's config.json says."""

    head: Head
    model: ModelConfig
    task: TaskConfig | None


def hf_name(leaf: Leaf) -> str:
    """`electra.encoder.layer.0.attention.self.query.weight` and the like."""
    suffix = "bias" if leaf.part == "bias" else "weight"
    module = leaf.module.replace("encoder/layer_", "encoder.layer.").replace("/", ".")
    return f"{'' if leaf.room == 'head' else 'electra.'}{module}.{suffix}"


# torch's Linear keeps [outputs, inputs].
TORCH = Foreign(hf_name, lambda leaf: leaf.part == "kernel")


def read_config(folder: Path) -> HfConfig:
    """Reads config.json. Raises UserError where it is not an ELECTRA's, or asks what is not here."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no Hugging Face folder, for it has no {CONFIG}: {_instead(folder)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy the folder again") from None
    if not isinstance(values, dict) or values.get("model_type") != "electra":
        kind = values.get("model_type") if isinstance(values, dict) else None
        raise UserError(f"{path} describes a model of type {kind!r}, not 'electra': name an ELECTRA's folder")
    for name, ours in FIXED.items():
        if values.get(name, ours) != ours:
            raise UserError(f"{path}: {name} is {values[name]!r}, but ELECTRA here has {ours!r} only")
    architectures = values.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    head = ARCHITECTURES.get(first) if isinstance(first, str) else None
    if head is None:
        raise UserError(
            f"{path}: architectures is {architectures!r}, but only {', '.join(ARCHITECTURES)} can be read: export the "
            "model with one of these heads"
        )
    try:
        model = ModelConfig(**{name: values.get(name, default) for name, default in SHARED.items()})
        task = None if head in ("discriminator", "generator") else _task(head, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return HfConfig(head, model, task)


def _instead(folder: Path) -> str:
    """What somebody who named this folder most likely wants."""
    if not folder.is_dir():
        return "there is no such folder"
    if (folder / "discriminator" / CONFIG).is_file():
        return f"name {folder / 'discriminator'}"
    if any(folder.glob("*.index")):
        return "import a TensorFlow 1 checkpoint with --format tf1"
    return "name the model's own"


def _task(head: Head, values: dict[str, Any]) -> TaskConfig:
    labels = {"0": "start", "1": "end"} if head == "question_answering" else values.get("id2label")
    try:
        if labels is None:
            labels = {str(number): f"LABEL_{number}" for number in range(values.get("num_labels", 2))}
        names = tuple(labels[str(number)] for number in range(len(labels)))
    except (KeyError, TypeError):
        raise UserError(f"id2label and num_labels do not number labels from 0 on: {labels!r:.80}") from None
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"id2label names labels that are no text: {names!r:.80}")
    problem = values.get("problem_type")
    return TaskConfig(name=head, labels=names, problem_type=problem, dropout=values.get("classifier_dropout"))  # type: ignore[arg-type]


def read_folder(folder: Path) -> tuple[NetworksConfig, Network]:
    """The one network of a folder.

    Raises UserError where the folder is not ELECTRA's, holds pickles only, or tensors its settings do not describe.
    """
    config = read_config(folder)
    is_generator = config.head == "generator"
    networks = (
        NetworksConfig(generator=config.model)
        if is_generator
        else NetworksConfig(discriminator=config.model, task=config.task)
    )
    name = "generator" if is_generator else "discriminator"
    with _tensors(folder) as tensors:
        shapes = {key: tuple(tensors[key].get_slice(key).get_shape()) for key in tensors if key not in BUFFERS}
        if is_generator and TIED in shapes:
            if WORDS in shapes:
                _check_tied(folder, tensors)
            else:  # of one array under two names, a file may keep either
                shapes[WORDS], tensors[WORDS] = shapes[TIED], tensors[TIED]
            del shapes[TIED]

        def read(_: str, key: str) -> np.ndarray:
            held = TIED if key == WORDS and WORDS not in tensors[key].keys() else key  # noqa: SIM118 no dictionary
            return tensors[key].get_tensor(held)

        found = read_networks(networks, {name: TORCH}, {name: shapes}, read, str(folder))
    return networks, found[name]


def _check_tied(folder: Path, tensors: dict[str, Any]) -> None:
    if not np.array_equal(tensors[TIED].get_tensor(TIED), tensors[WORDS].get_tensor(WORDS)):
        raise UserError(
            f"{folder}: {TIED} differs from the word embeddings, but ELECTRA's generator has one table for both: it "
            "cannot be read"
        )


@contextmanager
def _tensors(folder: Path) -> Iterator[dict[str, Any]]:
    """Each tensor's name with the open file that holds it."""
    from safetensors import SafetensorError, safe_open

    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        names = _shards(folder)
    with ExitStack() as files:
        found: dict[str, Any] = {}
        for name in names:
            try:
                file = files.enter_context(safe_open(folder / name, framework="numpy"))
                found |= dict.fromkeys(file.keys(), file)
            except SafetensorError as error:
                if _is_pickle(folder / name):
                    raise UserError(
                        f"{folder / name} is a pickle of torch's under another name: name it pytorch_model.bin; "
                        + _convert(folder)
                    ) from None
                raise UserError(f"{folder / name} is damaged or no safetensors file ({error}): copy it again") from None
            except OSError as error:
                raise UserError(
                    f"{folder / name} cannot be opened ({error.strerror or error}): copy it again"
                ) from None
        yield found


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _shards(folder: Path) -> list[str]:
    """The files of weights that are in several, as their index names them."""
    try:
        shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        if any(not isinstance(name, str) or Path(name).name != name for name in shards):
            raise ValueError("it names files elsewhere")
        return sorted(shards)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / INDEX} cannot be read ({error}): copy it again") from None
    if pickles := [name for name in PICKLES if (folder / name).exists()]:
        raise UserError(f"{folder} has {pickles[0]} and no {WEIGHTS}: {_convert(folder)}")
    others = [name for name in OTHERS if (folder / name).exists()]
    beside = f", only {others[0]}, which is not read" if others else ""
    raise UserError(f"{folder} has no {WEIGHTS}{beside}: copy the model's whole folder")


def _convert(folder: Path) -> str:
    architecture = next(name for name, head in ARCHITECTURES.items() if head == read_config(folder).head)
    return CONVERT.format(cls=architecture, folder=folder)


def check_expressible(config: ModelConfig, task: TaskConfig | None = None) -> None:
    """Raises UserError, naming the settings, for a network or a head that Hugging Face's ELECTRA cannot be."""
    in_the_way = [
        f"model.{name} is {getattr(config, name)!r} and not {theirs!r}"
        for name, theirs in EXPRESSIBLE.items()
        if getattr(config, name) != theirs
    ]
    if in_the_way:
        raise UserError(
            f"Hugging Face's ELECTRA cannot express this network ({', '.join(in_the_way)}): it stays here, or is "
            "pre-trained anew with those settings"
        )
    if task is not None and task.form == "paper" and task.name != "token_classification":  # of tokens there is one form
        raise UserError(
            f"Hugging Face's ELECTRA cannot express this head of {task.name}, for the head is the paper's (task form "
            "'paper'): fine-tune with --head huggingface to export"
        )


def write_folder(folder: Path, networks: NetworksConfig, params: Any, network: str) -> None:
    """Writes config.json and model.safetensors of one network. Raises UserError as `check_expressible` does."""
    from safetensors.numpy import save

    sizes = networks.each[network]
    task = networks.task if network == "discriminator" else None
    check_expressible(sizes, task)
    dropout = None if task is None else task.dropout
    if task is not None and task.form == "paper":
        dropout = task.dropout_in(sizes)  # where none is named, theirs is the encoder's
    folder.mkdir(parents=True, exist_ok=True)
    head = head_of(networks, network)
    values: dict[str, Any] = {
        "model_type": "electra",
        "architectures": [next(name for name, known in ARCHITECTURES.items() if known == head)],
        **{name: getattr(sizes, name) for name in SHARED},
        "hidden_act": FIXED["hidden_act"],
        "pad_token_id": FIXED["pad_token_id"],
        "tie_word_embeddings": True,
        "classifier_dropout": dropout,
    }
    if task is not None and task.name != "question_answering":
        labels = task.labels
        values |= {
            "id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
            "problem_type": task.problem_type,
        }
    write_json(folder / CONFIG, values)
    tensors = write_network(networks, params, network, TORCH)
    write_file(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
