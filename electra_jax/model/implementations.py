"""Which implementations of attention there are, what each cannot compute, and which one a use of it takes.

All of them keep to the example a token belongs to; one that could not would have to say so in `why_not`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from electra_jax.errors import UserError

PLATFORMS = {"cpu": "a CPU", "gpu": "a GPU", "tpu": "a TPU"}
# Written for one platform, and faster there; and what every platform computes, the faster one first.
FASTEST = {"gpu": "cudnn", "tpu": "flash"}
EVERYWHERE = ("xla", "einsum")
# flash computes blocks of so many tokens at least, and pads rows to them.
FLASH_BLOCK = 128
# Shorter rows are one block a head, too little to gain on what XLA fuses by itself.
FLASH_FROM = 256


class Use(NamedTuple):
    """One use of attention: all that decides which implementations can compute it."""

    rate: float  # of dropout on the probabilities
    dtype: str = "float32"
    head_size: int = 64
    length: int = 128  # tokens a row
    platform: str | None = None  # cpu, gpu or tpu; None: not known, so any of them
    is_placed: bool = True  # whether a kernel can be told how the rows lie on several devices


def why_not(name: str, use: Use) -> str | None:
    """Why an implementation cannot compute this attention exactly, as what follows its name; None where it can."""
    where = PLATFORMS.get(use.platform or "", "every platform")
    if name != "einsum" and use.rate:
        return f"has no dropout, but attention_probs_dropout_prob is {use.rate}"
    # By jax._src.cudnn.fused_attention_stablehlo; a head may have 256 from Hopper on, which is not asked for here.
    if name == "cudnn":
        if use.platform != "gpu":
            return f"computes on a GPU alone, not on {where}"
        if use.dtype != "bfloat16":
            return f"computes in bfloat16 alone, but runtime.dtype is {use.dtype}"
        if use.head_size > 128 or use.head_size % 8:
            return f"takes head sizes up to 128 that are multiples of 8, not {use.head_size}"
        if use.length % 2:
            return f"takes rows of an even number of tokens, not {use.length}"
    # By jax.experimental.pallas.ops.tpu.flash_attention.
    if name == "flash":
        if use.platform not in ("tpu", "cpu"):
            return f"computes on a TPU, or interpreted on a CPU, not on {where}"
        if use.head_size > 128 and use.head_size % 128:
            return f"takes head sizes up to 128 or multiples of it, not {use.head_size}"
        if not use.is_placed:
            return "cannot be told how fine-tuning's members lie on several devices"
    return None


def choose(wanted: str, use: Use) -> str:
    """The implementation that computes the wanted attention exactly. Raises UserError where it cannot."""
    return _choose(wanted, use)[0]


def _choose(wanted: str, use: Use) -> tuple[str, str]:
    """The implementation, and why this one; "" where there is nothing to say."""
    if wanted != "auto":
        reason = why_not(wanted, use)
        if reason is not None:
            mend = "runtime.attention auto or einsum, or dropout 0" if use.rate else "runtime.attention auto"
            raise UserError(f"attention {wanted} {reason}: take {mend}")
        return wanted, "asked for"
    if use.rate:
        return "einsum", f"dropout {use.rate} on the probabilities, which xla, cudnn and flash do not have"
    if use.platform not in FASTEST:
        return EVERYWHERE[0], ""
    fastest = FASTEST[use.platform]
    reason = why_not(fastest, use) or _why_slower(fastest, use)
    return (fastest, f"the fastest on {PLATFORMS[use.platform]}") if reason is None else ("xla", f"{fastest} {reason}")


def _why_slower(name: str, use: Use) -> str | None:
    """Why a platform's own implementation would gain nothing."""
    if name == "flash" and use.length < FLASH_FROM:
        return f"gains nothing on rows of less than {FLASH_FROM} tokens"
    if name == "flash" and use.length % FLASH_BLOCK:
        return f"would pad rows to blocks of {FLASH_BLOCK} tokens"
    return None


def describe(wanted: str, uses: Mapping[str, Sequence[tuple[str, Use]]]) -> str:
    """Which implementation each use takes and why, in one line; said once for the uses that agree.

    `uses` has by purpose (training, evaluation) the uses of each network, by name. Raises UserError as `choose` does.
    """
    said: dict[str, str] = {}
    for purpose, named in uses.items():
        found: dict[tuple[str, str], list[tuple[str, Use]]] = {}
        for name, use in named:
            found.setdefault(_choose(wanted, use), []).append((name, use))
        said[purpose] = ", ".join(
            f"{choice} in {{}}{_of(those, named)}" + (f" ({reason})" if reason else "")
            for (choice, reason), those in found.items()
        )
    together: dict[str, list[str]] = {}
    for purpose, text in said.items():
        together.setdefault(text, []).append(purpose)
    return "attention: " + ", ".join(text.replace("{}", " and ".join(purposes)) for text, purposes in together.items())


def _of(some: Sequence[tuple[str, Use]], among: Sequence[tuple[str, Use]]) -> str:
    """Which of the uses these are, by network and by length, as far as they do not have all of either."""
    networks, lengths = (dict.fromkeys(name for name, _ in some), sorted({use.length for _, use in some}))
    text = "" if networks.keys() == {name for name, _ in among} else f" of the {' and '.join(networks)}"
    if set(lengths) != {use.length for _, use in among}:
        text += f" of rows of {' and '.join(map(str, lengths))} tokens"
    return text
