"""Which implementation of attention is taken where, and what a run says of it."""

import re

import pytest
from tiny_models import make_config

from electra_jax.errors import UserError
from electra_jax.model.attention import Kernels, describe_attention
from electra_jax.model.electra import create_model
from electra_jax.model.implementations import Use, choose, why_not
from electra_jax.networks import networks_of

GPU, TPU = Use(0.0, "bfloat16", 64, 512, "gpu"), Use(0.0, "bfloat16", 64, 512, "tpu")
# An implementation, a use that it cannot compute, and what it says.
CANNOT = [
    ("xla", Use(0.1), "has no dropout, but attention_probs_dropout_prob is 0.1"),
    ("cudnn", GPU._replace(rate=0.1), "has no dropout"),
    ("flash", TPU._replace(rate=0.1), "has no dropout"),
    ("cudnn", GPU._replace(platform="cpu"), "computes on a GPU alone, not on a CPU"),
    ("cudnn", GPU._replace(platform="tpu"), "computes on a GPU alone, not on a TPU"),
    ("cudnn", GPU._replace(platform=None), "computes on a GPU alone, not on every platform"),
    ("cudnn", GPU._replace(dtype="float32"), "computes in bfloat16 alone, but runtime.dtype is float32"),
    ("cudnn", GPU._replace(head_size=136), "takes head sizes up to 128 that are multiples of 8, not 136"),
    ("cudnn", GPU._replace(head_size=12), "takes head sizes up to 128 that are multiples of 8, not 12"),
    ("cudnn", GPU._replace(length=127), "takes rows of an even number of tokens, not 127"),
    ("flash", TPU._replace(platform="gpu"), "computes on a TPU, or interpreted on a CPU, not on a GPU"),
    ("flash", TPU._replace(platform=None), "not on every platform"),
    ("flash", TPU._replace(head_size=192), "takes head sizes up to 128 or multiples of it, not 192"),
    ("flash", TPU._replace(is_placed=False), "cannot be told how fine-tuning's members lie on several devices"),
]


@pytest.mark.parametrize(("name", "use", "words"), CANNOT)
def test_what_cannot_be_computed_exactly_is_refused_and_never_taken_by_itself(name: str, use: Use, words: str) -> None:
    assert words in (why_not(name, use) or "")
    with pytest.raises(UserError, match=f"attention {name} .*{re.escape(words)}.*: take runtime.attention auto"):
        choose(name, use)
    assert why_not(choose("auto", use), use) is None


def test_auto_takes_the_platform_s_own_where_it_gains() -> None:
    assert choose("auto", GPU) == "cudnn"
    assert choose("auto", GPU._replace(dtype="float32")) == "xla"
    assert choose("auto", TPU) == "flash"
    assert [choose("auto", TPU._replace(length=n)) for n in (64, 128, 200, 256, 300)] == ["xla"] * 3 + ["flash", "xla"]
    assert choose("auto", TPU._replace(platform="cpu")) == "xla"
    for use in (GPU, TPU):
        assert choose("auto", use._replace(rate=0.1)) == "einsum"
        assert choose("auto", use._replace(platform=None)) == "xla"
        assert choose("einsum", use) == "einsum"
        assert choose("xla", use) == "xla"


def described(platform: str, wanted: str = "auto", dropout: float = 0.1, lengths: tuple[int, ...] = (128,)) -> str:
    """What a run in bfloat16 says, whose discriminator has heads of 16 and its generator of 12."""
    config = make_config(
        model={"attention_probs_dropout_prob": dropout, "hidden_size": 64, "num_attention_heads": 4},
        generator={"width_fraction": 24 / 64, "num_attention_heads": 2},
    )
    return describe_attention(networks_of(config), Kernels("bfloat16", wanted, platform=platform), lengths)


def test_a_run_says_what_it_took_and_why() -> None:
    dropped = "einsum in training (dropout 0.1 on the probabilities, which xla, cudnn and flash do not have)"
    assert described("cpu") == f"attention: {dropped}, xla in evaluation"
    assert described("cpu", dropout=0.0) == "attention: xla in training and evaluation"
    assert described("cpu", "einsum") == "attention: einsum in training and evaluation (asked for)"
    assert described("tpu", dropout=0.0, lengths=(512,)) == (
        "attention: flash in training and evaluation (the fastest on a TPU)"
    )


def test_what_differs_by_network_or_length_is_said_apart() -> None:
    assert described("gpu", dropout=0.0) == (
        "attention: xla in training and evaluation of the generator (cudnn takes head sizes up to 128 that are "
        "multiples of 8, not 12), cudnn in training and evaluation of the discriminator (the fastest on a GPU)"
    )
    assert described("tpu", dropout=0.0, lengths=(64, 128, 256)) == (
        "attention: xla in training and evaluation of rows of 64 and 128 tokens (flash gains nothing on rows of less "
        "than 256 tokens), flash in training and evaluation of rows of 256 tokens (the fastest on a TPU)"
    )


def test_one_network_that_cannot_is_enough_for_a_refusal() -> None:
    with pytest.raises(UserError, match=r"not 12: take runtime\.attention auto"):
        described("gpu", "cudnn", dropout=0.0)


@pytest.mark.parametrize("wanted", ["cudnn", "flash"])
def test_a_run_s_model_can_be_used_elsewhere_whatever_trained_it(wanted: str) -> None:
    config = make_config(runtime={"attention": wanted})
    assert create_model(config).kernels.attention == "auto"
    assert create_model(config, "tpu").kernels.attention == wanted
    assert create_model(make_config(runtime={"attention": "einsum"})).kernels.attention == "einsum"
