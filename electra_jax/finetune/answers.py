"""What a fine-tuned model says of a text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classified:
    """The likeliest label, and every label's probability."""

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Scored:
    """A score on the task's own scale."""

    score: float


@dataclass(frozen=True)
class TaggedWord:
    """A word where it stands in the text: text[start:end] is the word."""

    text: str
    start: int
    end: int
    tag: str
    probability: float


@dataclass(frozen=True)
class Tagged:
    """The words of a text and their tags; words given as a list stand as if in a text joined by spaces."""

    words: list[TaggedWord]


@dataclass(frozen=True)
class Answered:
    """The best answer: context[start:end] is its text, "" where there most likely is none."""

    text: str
    start: int
    end: int
    probability: float  # among the likeliest answers
    no_answer_score: float | None  # above the model's threshold: there is none; None where each has an answer


Prediction = Classified | Scored | Tagged | Answered
