"""Beginning a run from weights that are there already: a run's, an imported model's, a Hugging Face folder's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from electra_jax.config import ModelConfig, PretrainConfig
from electra_jax.errors import UserError
from electra_jax.model.sharing import Network, join, separate, shared_tables
from electra_jax.networks import NetworksConfig, networks_of
from electra_jax.pretrain.loading import load
from electra_jax.text.rows import DataSet

# What may differ between the weights' own settings and the run's: it changes neither a shape nor what is computed.
MAY_DIFFER = {
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "initialization",
    "embedding_sharing",
}


class GivenWeights(NamedTuple):
    """The networks found in the place that `train.init_from` names, on the host."""

    networks: dict[str, Network]
    has_rtd_head: bool
    story: str  # what is taken and what is fresh, for people


def read_weights(config: PretrainConfig, data_set: DataSet, report: Callable[[str], None]) -> GivenWeights:
    """Opens `train.init_from`. Raises UserError where its networks or its tokenizer are not the run's."""
    assert config.train.init_from is not None
    source = load(Path(config.train.init_from).expanduser(), report=report)
    where = f"the weights of {config.train.init_from}"
    theirs, ours = source.tokenizer.fingerprint, data_set.meta["tokenizer"]["fingerprint"]
    if theirs != ours:
        folder = Path(config.train.init_from) / "tokenizer"
        first = "" if folder.is_dir() else "import the model, and "
        raise UserError(
            f"{where} were trained with another tokenizer ({theirs[:12]}) than the data set's ({ours[:12]}): {first}"
            f"prepare the data with --tokenizer-file {folder if folder.is_dir() else 'IMPORTED/tokenizer'}"
        )
    given, wanted = source.model.networks, networks_of(config)
    found = separate(jax.device_get(source.params), given)
    taken = {name: network for name, network in found.items() if name in wanted.each}
    if not taken:
        raise UserError(f"{where} are a {' and a '.join(found)}, and this run trains none of that")
    for name in sorted(taken):  # the discriminator first, whose settings are the generator's too
        _check_same(name, given.each[name], wanted.each[name], where)
    if len(taken) == 2 and not _agree(taken, wanted.sharing):
        raise UserError(
            f"{where} keep {given.sharing!r} of the embeddings as one array, but model.embedding_sharing is "
            f"{wanted.sharing!r}: pass --model.embedding-sharing {given.sharing}"
        )
    has_rtd_head = given.task is None
    names = [name if name == "generator" or has_rtd_head else f"{name} without its head" for name in sorted(taken)]
    fresh = [name for name in wanted.each if name not in taken]
    story = f"{where} at step {source.step:,}: {' and '.join(names)}" + (f"; the {fresh[0]} is fresh" if fresh else "")
    return GivenWeights(taken, has_rtd_head, story)


def begin_with(weights: GivenWeights, fresh: Any, wanted: NetworksConfig) -> Any:
    """A run's fresh parameters with everything that the weights hold in its place.

    A network that is fresh takes over what it shares with the other one.
    """
    own = separate(jax.device_get(fresh), wanted)
    found = {name: network._replace(embeddings=dict(network.embeddings)) for name, network in own.items()}
    for name, network in weights.networks.items():
        head = own[name].head if name == "discriminator" and not weights.has_rtd_head else network.head
        found[name] = network._replace(head=head)
        for other in found.keys() - weights.networks.keys():
            found[other].embeddings.update(shared_tables(network.embeddings, wanted.sharing))
    return join(found, wanted)


def _check_same(network: str, theirs: ModelConfig, ours: ModelConfig, where: str) -> None:
    names = [name for name in vars(theirs) if name not in MAY_DIFFER]
    differ = [name for name in names if getattr(theirs, name) != getattr(ours, name)]
    if differ:
        listed = ", ".join(f"{name} {getattr(theirs, name)} there and {getattr(ours, name)} here" for name in differ)
        advice = "set model.* to theirs" if network == "discriminator" else "see generator.* of --help"
        raise UserError(
            f"{where} do not fit the run's {network} ({listed}): take the preset of their size, or {advice}"
        )


def _agree(networks: dict[str, Network], sharing: str) -> bool:
    one, other = networks["generator"].embeddings, networks["discriminator"].embeddings
    if sharing == "gdes":  # whatever differs is the difference that it learns
        return True
    return jax.tree.all(jax.tree.map(np.array_equal, shared_tables(one, sharing), shared_tables(other, sharing)))
