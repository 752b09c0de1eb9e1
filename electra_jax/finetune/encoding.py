"""From examples to rows of token ids with their targets, and what leads back from a row to its example."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Int32

from electra_jax.errors import UserError
from electra_jax.pretrain.windows import cut
from electra_jax.tasks.examples import Answer, Example, QuestionExample, TaggedExample, TextExample
from electra_jax.tasks.task import Task
from electra_jax.text.tokenizer import Tokenizer

_CHUNK = 10_000  # texts encoded at once
_ROUND = 1e-9  # of a score's range: what a file's last digit may be off


class Window(NamedTuple):
    """The part of a context that a row holds: the row's token `at + i` has the characters `spans[i]` of the context.

    A token that is in several windows is best in the one where it has the most context.
    """

    at: int
    spans: Int32[np.ndarray, "m 2"]
    is_best: Bool[np.ndarray, " m"]


class Encoded(NamedTuple):
    """Rows without padding. `rows[i]` belongs to the example `owners[i]`; examples have one row or more.

    Targets by kind, one a row: "label", "score" (0…1), "tags" (-1 where no word begins), or "start", "end" and
    "no_answer". There are none where the examples are not labelled.
    """

    rows: list[list[int]]
    targets: dict[str, list[Any]]
    owners: list[int]
    word_positions: Sequence[list[tuple[int, int]]] = ()  # tagging: each word of the row, and where it begins
    windows: Sequence[Window] = ()  # question answering


def encode_examples(
    task: Task,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    length: int,
    *,
    training: bool,
    max_query: int = 64,
    stride: int = 128,
) -> Encoded:
    """The examples of a task as rows of at most `length` tokens: `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`.

    Texts are cut off, pairs at the longer one's end; sentences and contexts go on in further rows. A question has
    at most `max_query` tokens, and a context's windows begin `stride` tokens apart (paper, Appendix B).
    Raises UserError where a label is missing or not one of the task's.
    """
    labelled = _are_labelled(examples, training)
    if task.kind == "tagging":
        sentences = cast(Sequence[TaggedExample], examples)
        encoded = _encode_sentences(sentences, tokenizer, length)
        return encoded._replace(targets={"tags": _tags(task, sentences, encoded)}) if labelled else encoded
    if task.kind == "question_answering":
        encoded = _encode_questions(cast(Sequence[QuestionExample], examples), tokenizer, length, max_query, stride)
        return encoded if labelled else encoded._replace(targets={})
    texts = cast(Sequence[TextExample], examples)
    encoded = _encode_texts(texts, tokenizer, length, swap_pairs=training and task.swap_pairs)
    return encoded._replace(targets=_labels(task, texts, encoded)) if labelled else encoded


def _are_labelled(examples: Sequence[Example], training: bool) -> bool:
    labelled = [_is_labelled(example) for example in examples]
    if all(labelled) or not (training or any(labelled)):
        return all(labelled)
    where = examples[labelled.index(False)].where
    raise UserError(f"{where} has no label: label it, or leave it out")


def _is_labelled(example: Example) -> bool:
    if isinstance(example, TextExample):
        return example.label is not None
    if isinstance(example, TaggedExample):
        return example.tags is not None
    return example.is_impossible or bool(example.answers)


def _ids_of(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """The ids of every different text; the unknown token for one that encodes to nothing."""
    different = list(dict.fromkeys(texts))
    found: dict[str, list[int]] = {}
    for start in range(0, len(different), _CHUNK):
        some = different[start : start + _CHUNK]
        found.update(zip(some, tokenizer.encode_batch(some), strict=True))
    return {text: ids or [tokenizer.unk] for text, ids in found.items()}


def _encode_texts(examples: Sequence[TextExample], tokenizer: Tokenizer, length: int, swap_pairs: bool) -> Encoded:
    texts = (text for example in examples for text in (example.text, example.pair) if text is not None)
    ids = _ids_of(texts, tokenizer)
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    rows, owners = [], []
    for number, example in enumerate(examples):
        first = ids[example.text]
        if example.pair is None:
            rows.append([cls, *first[: length - 2], sep])
            owners.append(number)
            continue
        second = ids[example.pair]
        for one, other in ((first, second), (second, first)) if swap_pairs else ((first, second),):
            of_one, of_other = shortened(len(one), len(other), length - 3)
            rows.append([cls, *one[:of_one], sep, *other[:of_other], sep])
            owners.append(number)
    return Encoded(rows, {}, owners)


def shortened(first: int, second: int, room: int) -> tuple[int, int]:
    """What is left of two texts when the longer one loses its last token, the second one on a tie, until both fit."""
    if first + second <= room:
        return first, second
    if second <= room // 2:
        return room - second, second
    kept = min(first, room - room // 2)
    return kept, room - kept


def _labels(task: Task, examples: Sequence[TextExample], encoded: Encoded) -> dict[str, list[Any]]:
    if task.kind == "regression":
        scores = [_scaled(task, example) for example in examples]
        return {"score": [scores[owner] for owner in encoded.owners]}
    numbers = {label: number for number, label in enumerate(task.labels)}
    labels = [_number(numbers, str(example.label), example.where) for example in examples]
    return {"label": [labels[owner] for owner in encoded.owners]}


def _scaled(task: Task, example: TextExample) -> float:
    assert example.label is not None
    (low, high), (lowest, highest) = task.scale, task.bounds
    score, slack = float(example.label), _ROUND * (high - low)
    if not lowest - slack <= score <= highest + slack:
        raise UserError(
            f"{example.where} has the score {example.label}, but {task.name} has scores of {lowest:g} to "
            f"{highest:g}: mend it, or set the task's low and high"
        )
    return (score - low) / (high - low)


def _number(numbers: dict[str, int], label: str, where: str) -> int:
    if label not in numbers:
        raise UserError(f"{where} has the label {label!r}, which is none of the task's: {', '.join(numbers)}")
    return numbers[label]


def _encode_sentences(examples: Sequence[TaggedExample], tokenizer: Tokenizer, length: int) -> Encoded:
    """Every word in one row only; a long sentence goes on in the next row. Words are encoded one by one."""
    room = length - 2
    ids = _ids_of((word for example in examples for word in example.words), tokenizer)
    pieces = {word: found[:room] for word, found in ids.items()}
    rows, owners, word_positions = [], [], []
    for number, example in enumerate(examples):
        sentence = [piece for word in example.words for piece in pieces[word]]
        begins = [at == 0 for word in example.words for at in range(len(pieces[word]))]
        word = 0
        for first, last in cut(begins, room, bool):
            places = [at - first + 1 for at in range(first, last) if begins[at]]
            rows.append([tokenizer.special.cls, *sentence[first:last], tokenizer.special.sep])
            owners.append(number)
            word_positions.append(list(enumerate(places, word)))
            word += len(places)
    return Encoded(rows, {}, owners, word_positions)


def _tags(task: Task, examples: Sequence[TaggedExample], encoded: Encoded) -> list[list[int]]:
    numbers = {label: number for number, label in enumerate(task.labels)}
    found = []
    for row, owner, positions in zip(encoded.rows, encoded.owners, encoded.word_positions, strict=True):
        example = examples[owner]
        assert example.tags is not None
        tags = [-1] * len(row)
        for word, at in positions:
            tags[at] = _number(numbers, example.tags[word], example.where)
        found.append(tags)
    return found


def _encode_questions(
    examples: Sequence[QuestionExample], tokenizer: Tokenizer, length: int, max_query: int, stride: int
) -> Encoded:
    """`[CLS] question [SEP] part of the context [SEP]`, with [CLS] as the answer where the part does not hold it.

    Whether there is no answer is said of the question, whatever the part holds (published code).
    """
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    questions = _ids_of((example.question for example in examples), tokenizer)
    contexts = {text: _context(text, tokenizer) for text in dict.fromkeys(example.context for example in examples)}
    encoded = Encoded([], {"start": [], "end": [], "no_answer": []}, [], (), [])
    windows: list[Window] = []
    for number, example in enumerate(examples):
        question = questions[example.question][: min(max_query, (length - 3) // 2)]
        ids, spans = contexts[example.context]
        gold = answer_tokens(example.answers[0], spans) if example.answers and not example.is_impossible else None
        at = len(question) + 2
        for first, last, is_best in context_windows(len(ids), length - 3 - len(question), stride):
            encoded.rows.append([cls, *question, sep, *ids[first:last], sep])
            encoded.owners.append(number)
            windows.append(Window(at, spans[first:last], is_best))
            held = gold is not None and first <= gold[0] and gold[1] < last
            start, end = (gold[0] - first + at, gold[1] - first + at) if gold is not None and held else (0, 0)
            encoded.targets["start"].append(start)
            encoded.targets["end"].append(end)
            encoded.targets["no_answer"].append(float(example.is_impossible))
    return encoded._replace(windows=windows)


def _context(text: str, tokenizer: Tokenizer) -> tuple[list[int], Int32[np.ndarray, "n 2"]]:
    ids, offsets = tokenizer.encode(text)
    if not ids:
        ids, offsets = [tokenizer.unk], [(0, 0)]
    return ids, np.array(offsets, np.int32)


def answer_tokens(answer: Answer, spans: Int32[np.ndarray, "n 2"]) -> tuple[int, int] | None:
    """The first and the last token with a character of the answer; None where it has no token of its own."""
    start, end = spans.T
    inside = np.flatnonzero((start < end) & (start < answer.start + len(answer.text)) & (end > answer.start))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def context_windows(size: int, room: int, stride: int) -> Iterator[tuple[int, int, Bool[np.ndarray, " m"]]]:
    """Windows (first, last, which of their tokens are best there) of at most `room` tokens over `size` of them.

    They begin `stride` tokens apart, or half a window where that is less, so that short answers are never cut.
    """
    step = min(stride, max(1, room // 2))
    first = np.arange(0, max(size - room, 0) + step, step)
    last = np.minimum(first + room, size)
    # The published code's measure: the smaller side's tokens, and long windows before short ones.
    places, first_, last_ = np.arange(size), first[:, None], last[:, None]
    context = np.minimum(places - first_, last_ - 1 - places) + 0.01 * (last_ - first_)
    best = np.where((first_ <= places) & (places < last_), context, -np.inf).argmax(0)
    for number, (begin, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        yield begin, end, best[begin:end] == number
