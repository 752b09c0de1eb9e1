import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from electra_jax.config import PrepareConfig
from electra_jax.errors import UserError
from electra_jax.finetune.encoding import Encoded, Window, context_windows, encode_examples, shortened
from electra_jax.tasks.examples import Answer, QuestionExample, TaggedExample, TextExample
from electra_jax.text.tokenizer import open_tokenizer_file
from tests.finetune.tiny_tasks import TOKENIZERS, WHERE, question, squad, task, texts, tokenizer_of, words

both = pytest.mark.parametrize("kind", TOKENIZERS)
patient = settings(deadline=None)  # the first text waits for its tokenizer
lengths = st.integers(8, 64)
CLASSES = task("classification", labels=("no", "yes"))
QUESTIONS = task("question_answering")


def parts(encoded: Encoded, kind: str) -> list[list[list[int]]]:
    """What stands before each [SEP] of each row, which must be whole and without padding."""
    special = tokenizer_of(kind).special
    found = []
    for row in encoded.rows:
        assert row[0] == special.cls
        assert row[-1] == special.sep
        assert special.pad not in row
        inner: list[list[int]] = [[]]
        for token in row[1:-1]:
            if token == special.sep:
                inner.append([])
            else:
                inner[-1].append(token)
        assert all(inner)
        assert len(inner) <= 2
        found.append(inner)
    return found


@both
@patient
@given(st.lists(st.tuples(texts, st.none() | texts), max_size=5), lengths)
def test_a_text_or_a_pair_is_a_row(kind: str, pairs: list[tuple[str, str | None]], length: int) -> None:
    tokenizer = tokenizer_of(kind)
    examples = [TextExample(text, pair, "yes", WHERE) for text, pair in pairs]
    encoded = encode_examples(CLASSES, examples, tokenizer, length, training=False)
    assert encoded.owners == list(range(len(pairs)))
    assert encoded.targets == {"label": [1] * len(pairs)}
    for inner, row, (text, pair) in zip(parts(encoded, kind), encoded.rows, pairs, strict=True):
        assert len(row) <= length
        whole = [tokenizer.encode_batch([part])[0] or [tokenizer.unk] for part in (text, pair) if part is not None]
        assert [ids[: len(found)] for ids, found in zip(whole, inner, strict=True)] == inner
        # Nothing is cut off but for want of room.
        assert inner == whole or len(row) == length


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 40))
def test_the_longer_text_of_a_pair_is_cut_first(first: int, second: int, room: int) -> None:
    left, right = first, second
    while left + right > room:
        if left > right:
            left -= 1
        else:
            right -= 1
    assert shortened(first, second, room) == (left, right)


@both
def test_pairs_are_there_both_ways_round_in_training_only(kind: str) -> None:
    examples = [TextExample("the value", "an expression", 4.0, WHERE), TextExample("it is", "a list", 1.0, WHERE)]
    similar = task("regression", swap_pairs=True, low=0.0, high=5.0)
    encoded = encode_examples(similar, examples, tokenizer_of(kind), 32, training=True)
    assert encoded.owners == [0, 0, 1, 1]
    assert encoded.targets["score"] == pytest.approx([0.8, 0.8, 0.2, 0.2])
    inner = parts(encoded, kind)
    assert inner[0] == inner[1][::-1]
    assert inner[2] == inner[3][::-1]
    held_out = encode_examples(similar, examples, tokenizer_of(kind), 32, training=False)
    assert held_out.rows == encoded.rows[::2]
    one_way = encode_examples(task("regression", low=0.0, high=5.0), examples, tokenizer_of(kind), 32, training=True)
    assert one_way == held_out


@both
@patient
@given(st.lists(st.lists(words, min_size=1, max_size=30), max_size=4), lengths)
def test_every_word_has_one_label_where_its_first_piece_is(kind: str, sentences: list[list[str]], length: int) -> None:
    tokenizer = tokenizer_of(kind)
    labels = tuple(f"tag {number}" for number in range(30))
    examples = [TaggedExample(tuple(sentence), labels[: len(sentence)], WHERE) for sentence in sentences]
    tagging = task("tagging", labels=labels)
    encoded = encode_examples(tagging, examples, tokenizer, length, training=True)
    parts(encoded, kind)
    places: Counter[tuple[int, int]] = Counter()
    rows = zip(encoded.rows, encoded.targets["tags"], encoded.word_positions, encoded.owners, strict=True)
    read: list[list[int]] = [[] for _ in sentences]
    for row, tags, positions, owner in rows:
        assert len(row) == len(tags) <= length
        assert {at: tag for at, tag in enumerate(tags) if tag >= 0} == {at: word for word, at in positions}
        for word, at in positions:
            places[owner, word] += 1
            ids = tokenizer.encode_batch([sentences[owner][word]])[0] or [tokenizer.unk]
            assert row[at : at + min(len(ids), length - 2)] == ids[: length - 2]
        read[owner] += row[1:-1]
    assert places == Counter((owner, word) for owner, sentence in enumerate(sentences) for word in range(len(sentence)))
    whole = [[tokenizer.encode_batch([w])[0] or [tokenizer.unk] for w in sentence] for sentence in sentences]
    assert read == [[token for ids in sentence for token in ids[: length - 2]] for sentence in whole]
    assert encode_examples(tagging, examples, tokenizer, length, training=False) == encoded


def read_back(context: str, window: Window, start: int, end: int) -> str:
    return context[window.spans[start - window.at, 0] : window.spans[end - window.at, 1]]


@both
@patient
@given(st.data(), texts, lengths, st.integers(1, 20), st.integers(1, 10))
def test_an_answer_on_the_borders_of_tokens_reads_back_exactly(
    kind: str, data: st.DataObject, context: str, length: int, max_query: int, stride: int
) -> None:
    tokenizer = tokenizer_of(kind)
    borders = [(start, end) for start, end in tokenizer.encode(context).offsets if start < end]
    assume(borders)
    first = data.draw(st.integers(0, len(borders) - 1))
    last = data.draw(st.integers(first, len(borders) - 1))
    answer = context[borders[first][0] : borders[last][1]]
    asked = data.draw(texts)
    example = question(context, Answer(answer, borders[first][0]), Answer("another", 0), text=asked)
    encoded = encode_examples(
        QUESTIONS, [example], tokenizer, length, training=True, max_query=max_query, stride=stride
    )
    parts(encoded, kind)
    targets = zip(*(encoded.targets[name] for name in ("start", "end", "no_answer")), strict=True)
    found = []
    for row, window, (start, end, no_answer) in zip(encoded.rows, encoded.windows, targets, strict=True):
        assert len(row) <= length
        assert len(window.spans) == len(window.is_best) == len(row) - window.at - 1
        assert row[window.at - 1] == tokenizer.special.sep
        assert no_answer == 0.0  # of the question, in windows that do not hold the answer too (published code)
        if start == 0:
            assert end == 0
        else:
            found.append(read_back(context, window, start, end))
    assert set(found) <= {answer}
    room = len(max(encoded.rows, key=len)) - encoded.windows[0].at - 1
    tokens = [at for at, span in enumerate(tokenizer.encode(context).offsets) if span in borders[first : last + 1]]
    if tokens[-1] - tokens[0] + 1 <= room - min(stride, max(1, room // 2)) + 1:
        assert found


@both
@patient
@given(texts, lengths)
@example("", 8)
@example("\u200b", 8)
def test_a_context_is_whole_and_every_token_is_best_once(kind: str, context: str, length: int) -> None:
    tokenizer = tokenizer_of(kind)
    encoded = encode_examples(QUESTIONS, [question(context)], tokenizer, length, training=False)
    assert encoded.targets == {}
    ids, offsets = tokenizer.encode(context)
    best: list[tuple[int, tuple[int, int]]] = []
    for row, window in zip(encoded.rows, encoded.windows, strict=True):
        here = zip(row[window.at : -1], map(tuple, window.spans.tolist()), strict=True)
        best += [token for token, is_best in zip(here, window.is_best, strict=True) if is_best]
    # Windows follow one another, so those tokens stand in the context's order.
    assert best == (list(zip(ids, offsets, strict=True)) or [(tokenizer.unk, (0, 0))])


@patient
@given(st.integers(1, 60), st.integers(2, 30), st.integers(1, 20))
@example(530, 400, 128)  # a last window so short that one token more on either side weighs less
def test_the_best_window_is_the_one_with_the_most_context(size: int, room: int, stride: int) -> None:
    found = list(context_windows(size, room, stride))
    assert [first for first, _, _ in found] == [i * min(stride, room // 2) for i in range(len(found))]
    assert found[-1][1] == size
    assert all(last == first + room < size for first, last, _ in found[:-1])
    for token in range(size):
        # Said once more, in the words of BERT's own rule.
        measures = [
            min(token - first, last - 1 - token) + 0.01 * (last - first) if first <= token < last else -1
            for first, last, _ in found
        ]
        holding = [bool(first <= token < last and best[token - first]) for first, last, best in found]
        assert holding == [number == int(np.argmax(measures)) for number in range(len(found))]


@both
def test_a_question_without_an_answer_points_at_cls(kind: str) -> None:
    context = "The value of an expression is returned."
    examples = [question(context, impossible=True), question(context, Answer("value", 4))]
    encoded = encode_examples(QUESTIONS, examples, tokenizer_of(kind), 128, training=False)
    assert encoded.owners == [0, 1]
    assert encoded.targets["no_answer"] == [1.0, 0.0]
    assert encoded.targets["start"][0] == encoded.targets["end"][0] == 0
    assert read_back(context, encoded.windows[1], encoded.targets["start"][1], encoded.targets["end"][1]) == "value"


@both
def test_an_answer_inside_a_word_takes_the_tokens_it_touches(kind: str) -> None:
    context = "the expressions returned"
    encoded = encode_examples(
        QUESTIONS, [question(context, Answer("xpression", 5))], tokenizer_of(kind), 64, training=True
    )
    (start,), (end,) = encoded.targets["start"], encoded.targets["end"]
    read = read_back(context, encoded.windows[0], start, end)
    assert "xpression" in read
    assert "expressions".startswith(read)


@both
def test_a_long_question_leaves_half_a_row_to_the_context(kind: str) -> None:
    long = question("The value of an expression", text="what is it and why is it so? " * 20)
    for length in (8, 64, 256):
        encoded = encode_examples(QUESTIONS, [long], tokenizer_of(kind), length, training=False)
        assert {window.at for window in encoded.windows} == {2 + min(64, (length - 3) // 2)}


@pytest.mark.parametrize(
    ("kind", "examples", "message"),
    [
        (
            "classification",
            [TextExample("a", None, "maybe", WHERE)],
            r"line 7 has the label 'maybe', .* task's: no, yes",
        ),
        ("classification", [TextExample("a", None, "no", WHERE), TextExample("a", None, None, "here")], "^here has no"),
        ("tagging", [TaggedExample(("a",), ("maybe",), WHERE)], r"line 7 has the label 'maybe', .* task's: no, yes"),
        ("regression", [TextExample("a", None, 7.5, WHERE)], r"line 7 has the score 7.5, .* scores of 0 to 1"),
        ("question_answering", [question("a", impossible=True), question("a")], "line 7 has no label"),
    ],
)
def test_a_wrong_label_is_named(kind: str, examples: list, message: str) -> None:
    labels = ("no", "yes") if kind in ("classification", "tagging") else ()
    with pytest.raises(UserError, match=message) as found:
        encode_examples(task(kind, labels=labels), examples, tokenizer_of("wordpiece"), 16, training=False)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("kind", "unlabelled"),
    [
        ("classification", TextExample("a", None, None, WHERE)),
        ("regression", TextExample("a", "b", None, WHERE)),
        ("tagging", TaggedExample(("a", "b"), None, WHERE)),
        ("question_answering", question("a")),
    ],
)
def test_what_is_not_labelled_has_no_targets_and_cannot_be_trained_on(kind: str, unlabelled) -> None:
    encoded = encode_examples(task(kind), [unlabelled], tokenizer_of("wordpiece"), 16, training=False)
    assert encoded.targets == {}
    assert len(encoded.rows) == 1
    with pytest.raises(UserError, match="line 7 has no label"):
        encode_examples(task(kind), [unlabelled], tokenizer_of("wordpiece"), 16, training=True)


@both
@pytest.mark.parametrize("file", ["train-v1.1-sample.json", "dev-v2.0.json"])
@pytest.mark.parametrize("length", [512, 128])
def test_squads_answers_read_back(shared_data: Path, kind: str, file: str, length: int) -> None:
    tokenizer = tokenizer_of(kind)
    if kind == "wordpiece":
        vocabulary = shared_data / "vocab" / "bert_uncased_vocab.txt"
        tokenizer = open_tokenizer_file(vocabulary, PrepareConfig(out=Path("unused"), tokenizer="wordpiece"))
    examples = squad(shared_data / "tasks" / "squad" / file)
    encoded = encode_examples(QUESTIONS, examples, tokenizer, length, training=True)
    assert max(map(len, encoded.rows)) <= length
    found: set[int] = set()
    wider: set[int] = set()
    targets = zip(*(encoded.targets[name] for name in ("start", "end")), strict=True)
    for window, owner, (start, end) in zip(encoded.windows, encoded.owners, targets, strict=True):
        asked = examples[owner]
        if start == 0:  # the window does not hold it
            continue
        found.add(owner)
        read, answer = read_back(asked.context, window, start, end), asked.answers[0].text
        if plain(read) != plain(answer):
            # Only ever the rest of a token at one end or the other.
            assert plain(answer) in plain(read)
            before, after = cut_at(asked, window, start, end)
            assert not before or not (before[-1].isspace() or answer[0].isspace())
            assert not after or not (after[0].isspace() or answer[-1].isspace())
            wider.add(owner)
    answerable = {number for number, asked in enumerate(examples) if asked.answers and not asked.is_impossible}
    # Few answers are longer than half a row of 128 small pieces; few, as "Japan" of "Japanese", end inside a token.
    assert len(answerable - found) <= (0 if length == 512 else 0.02 * len(answerable))
    assert len(wider) <= 0.01 * len(answerable)


def cut_at(asked: QuestionExample, window: Window, start: int, end: int) -> tuple[str, str]:
    """The characters of the first and the last token that are not the answer's."""
    answer = asked.answers[0]
    begins, ends = int(window.spans[start - window.at, 0]), int(window.spans[end - window.at, 1])
    return asked.context[begins : answer.start], asked.context[answer.start + len(answer.text) : ends]


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().lower()
