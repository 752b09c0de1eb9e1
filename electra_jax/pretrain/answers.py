"""What networks say of a text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """A token where it stands in the text: text[start:end] is what it was made from."""

    text: str
    start: int
    end: int
    probability: float  # of having been replaced


@dataclass(frozen=True)
class Detection:
    """A text and what the discriminator makes of each of its tokens."""

    text: str
    tokens: list[Token]


@dataclass(frozen=True)
class Candidate:
    """A token of the vocabulary; one that continues a word is written `##…`."""

    token: str
    id: int
    probability: float


@dataclass(frozen=True)
class Filling:
    """The likeliest tokens for the [MASK] that stands at text[start:start + 6], the likeliest first."""

    start: int
    candidates: list[Candidate]


@dataclass(frozen=True)
class Filled:
    """A text and what the generator would write for each of its masks."""

    text: str
    masks: list[Filling]


@dataclass(frozen=True)
class CorruptedToken:
    """A token before and after corruption, and the probability the discriminator gives it of being replaced."""

    original: str
    written: str
    original_id: int
    written_id: int
    start: int
    end: int
    masked: bool  # chosen for the generator to write anew
    replaced: bool  # and what it wrote differs from the original
    probability: float


@dataclass(frozen=True)
class Corruption:
    """A text, corrupted once as in training."""

    text: str
    seed: int
    tokens: list[CorruptedToken]
