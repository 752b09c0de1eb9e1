"""Each network's parameters whole, whatever of them is one array in the model, and back."""

from typing import Any, NamedTuple

from electra_jax.networks import NetworksConfig

Tree = dict[str, Any]

# What GDES gives the discriminator as a difference from the generator's (DeBERTa-v3, arXiv 2111.09543).
DIFFERENCES = ("word_embeddings", "position_embeddings")
HEADS = {
    "generator": ("generator_predictions",),
    "discriminator": ("discriminator_predictions", "task_head"),
}


class Network(NamedTuple):
    """One network's own parameters: what it reads, with nothing shared and no differences left."""

    embeddings: Tree
    encoder: Tree
    head: Tree


def separate(params: Tree, networks: NetworksConfig) -> dict[str, Network]:
    """The networks of a model by name, `generator` and `discriminator`, as far as it has them."""
    embeddings = {"generator": params["embeddings"], "discriminator": params["embeddings"]}
    own = params.get("discriminator_embeddings", {})
    if networks.sharing == "token":
        embeddings["discriminator"] = {**own, "word_embeddings": params["embeddings"]["word_embeddings"]}
    elif networks.sharing == "gdes":
        tables = {name: params["embeddings"][name] + own[name] for name in DIFFERENCES if name in own}
        embeddings["discriminator"] = {**own, **tables}
    elif networks.sharing == "none":
        embeddings["discriminator"] = own
    return {name: Network(embeddings[name], params[f"{name}_encoder"], _head(params, name)) for name in networks.each}


def join(found: dict[str, Network], networks: NetworksConfig) -> Tree:
    """`separate`'s inverse: the parameters of a model of which the networks agree in what they share."""
    params: Tree = {}
    for name, network in found.items():
        head = "task_head" if name == "discriminator" and networks.task is not None else HEADS[name][0]
        params |= {f"{name}_encoder": network.encoder, head: network.head}
    generator, discriminator = found.get("generator"), found.get("discriminator")
    params["embeddings"] = (generator or found["discriminator"]).embeddings
    if generator is None or discriminator is None or networks.sharing == "all":
        return params
    own = dict(discriminator.embeddings)
    if networks.sharing == "token":
        del own["word_embeddings"]
    elif networks.sharing == "gdes":
        own |= {name: own[name] - generator.embeddings[name] for name in DIFFERENCES if name in own}
    params["discriminator_embeddings"] = own
    return params


def shared_tables(embeddings: Tree, sharing: str) -> Tree:
    """What a network's fresh twin takes over of its embeddings, so that the two agree in what they share."""
    names = {"all": tuple(embeddings), "token": ("word_embeddings",), "gdes": DIFFERENCES, "none": ()}[sharing]
    return {name: embeddings[name] for name in names if name in embeddings}


def _head(params: Tree, network: str) -> Tree:
    return next(params[name] for name in HEADS[network] if name in params)
