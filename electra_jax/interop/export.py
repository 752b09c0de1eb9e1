"""A model for elsewhere: folders that Transformers opens as they are."""

from pathlib import Path
from typing import Any

import jax

from electra_jax.config import ModelConfig
from electra_jax.files import new_folder, write_file
from electra_jax.interop.hf_tokenizer import write_tokenizer
from electra_jax.interop.huggingface import check_expressible, write_folder
from electra_jax.interop.model_card import Facts, model_card
from electra_jax.interop.tensors import head_of
from electra_jax.networks import NetworksConfig
from electra_jax.text.tokenizer import Tokenizer

CARD = "README.md"


def export_huggingface(
    out: Path, networks: NetworksConfig, params: Any, tokenizer: Tokenizer, facts: Facts
) -> list[Path]:
    """Writes OUT/discriminator and OUT/generator, or OUT alone of a fine-tuned model; returns the folders.

    Raises UserError, before anything is written, for what Hugging Face's ELECTRA cannot express.
    """
    sizes = dict(sorted(networks.each.items()))
    if networks.task is not None:
        sizes.pop("generator", None)
    for found in sizes.values():
        check_expressible(found, networks.task)
    params = jax.device_get(params)
    with new_folder(out) as aside:
        for name, found in sizes.items():
            folder = aside if networks.task is not None else aside / name
            write_folder(folder, networks, params, name)
            longest = _longest(found, facts)
            write_tokenizer(tokenizer, folder, longest)
            write_file(folder / CARD, model_card(networks, head_of(networks, name), tokenizer, facts, longest))
    return [out] if networks.task is not None else [out / name for name in sizes]


def _longest(sizes: ModelConfig, facts: Facts) -> int:
    """Tokens whose positions were trained, as far as that is known: a run from scratch saw rows of one length.

    Of a fine-tuned model, those that it was fine-tuned on.
    """
    if facts.fine_tuned is not None:
        return int(facts.fine_tuned["length"])
    from_scratch = facts.config is not None and facts.config.train.init_from is None
    return facts.config.data.length if facts.config and from_scratch else sizes.max_position_embeddings


def export_stablehlo(out: Path, networks: NetworksConfig, params: Any, tokenizer: Tokenizer, length: int) -> list[Path]:
    """Writes functions that run wherever JAX does, without this project's model code; returns the folder.

    They take rows as long as the model has positions; with rotary ones, also as long as its own rows, `length`.
    """
    from electra_jax.interop.stablehlo_writer import write_stablehlo

    longest = networks.main.max_position_embeddings
    with new_folder(out) as aside:
        write_stablehlo(
            aside, networks, params, tokenizer, max(longest, length) if networks.main.position == "rope" else longest
        )
    return [out]
