"""What a labelled file holds, whatever its layout. `where` is its file and line, for messages."""

from typing import NamedTuple


class TextExample(NamedTuple):
    """A text, or a pair of them, with its label or its score."""

    text: str
    pair: str | None
    label: str | float | None  # a name for classification, a number for regression; None where not labelled
    where: str
    id: str | None = None  # where the file has one


class TaggedExample(NamedTuple):
    """The words of a sentence and a tag for each."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    where: str
    id: str | None = None
    places: tuple[tuple[int, int], ...] | None = None  # of the words in the text they were read from


class Answer(NamedTuple):
    """An answer as it stands in its context: context[start:start + len(text)] == text."""

    text: str
    start: int


class QuestionExample(NamedTuple):
    """A question about a context. No answers and not impossible: not labelled."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    is_impossible: bool
    where: str


Example = TextExample | TaggedExample | QuestionExample
