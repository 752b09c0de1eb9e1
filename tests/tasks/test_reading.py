"""What is read is what was written, and what is wrong is told by file and line."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_jax.errors import UserError
from electra_jax.tasks.examples import QuestionExample, TaggedExample, TextExample
from electra_jax.tasks.known import TASKS
from electra_jax.tasks.reading import labels_of, read_examples, read_inputs, with_labels
from electra_jax.tasks.task import Task
from tests.tasks.own_files import CHUNKS, PAIRS, QUESTIONS, SCORES, TAGS, TEXTS

SQUAD = replace(TASKS["squad2"], name="squad")

# Everything that is a text in UTF-8: no lone surrogates, and no NUL, which we take for a binary file.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, min_size=1, max_size=30).filter(str.strip)
lists = st.lists(st.tuples(texts, texts, st.sampled_from("01")), min_size=1, max_size=6)


@given(rows=lists, bom=st.booleans(), ending=st.sampled_from(["\n", "\r\n"]))
def test_a_csv_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], bom: bool, ending: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with open(path, "w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        # Python 3.11 leaves a bare carriage return unquoted unless it is part of its line ends.
        quoting = csv.QUOTE_ALL if ending == "\n" else csv.QUOTE_MINIMAL
        writer = csv.writer(file, lineterminator=ending, quoting=quoting)
        writer.writerow(["label", "pair", "text"])
        for text, pair, label in rows:
            writer.writerow([label, pair, text])
    examples = read_examples(PAIRS, path)
    assert [(e.text, e.pair, e.label) for e in examples if isinstance(e, TextExample)] == rows
    line = 2
    for example, row in zip(examples, rows, strict=True):
        assert example.where == f"{path}, line {line}"
        line += 1 + "".join(row).count("\n")


@given(rows=lists, ascii_only=st.booleans())
def test_json_lines_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    lines = [
        json.dumps(dict(zip(("text", "pair", "label"), row, strict=True)), ensure_ascii=ascii_only) for row in rows
    ]
    path.write_bytes("\n".join(lines).encode())
    examples = read_examples(PAIRS, path)
    assert [(e.text, e.pair, e.label) for e in examples if isinstance(e, TextExample)] == rows
    assert [e.where for e in examples] == [f"{path}, line {number}" for number in range(1, len(rows) + 1)]


@given(
    rows=st.lists(
        st.lists(st.tuples(texts, st.sampled_from(["O", "B-X", "B-Y", "I-X", "I-Y"])), min_size=1),
        min_size=1,
        max_size=5,
    )
)
def test_tagged_words_come_back_as_iob2(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[tuple[str, str]]]
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    records = [{"words": [word for word, _ in row], "tags": [tag for _, tag in row]} for row in rows]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    for example, row in zip(read_examples(replace(TAGS, scheme="iob1"), path), rows, strict=True):
        assert isinstance(example, TaggedExample)
        assert example.words == tuple(word for word, _ in row)
        before = "O"
        for given_tag, tag in zip((tag for _, tag in row), example.tags or (), strict=True):
            assert tag[1:] == given_tag[1:]  # the type is never touched, nor is O
            assert tag[0] == given_tag[0] or (given_tag[0], tag[0]) == ("I", "B")
            assert not tag.startswith("I-") or before[2:] == tag[2:]
            before = tag


@given(context=texts, question=texts, within=st.tuples(st.integers(0, 29), st.integers(1, 30)), told=st.booleans())
def test_a_question_comes_back(
    tmp_path_factory: pytest.TempPathFactory, context: str, question: str, within: tuple[int, int], told: bool
) -> None:
    start = within[0] % len(context)
    answer = context[start : start + within[1]]
    path = tmp_path_factory.mktemp("qa") / "a.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "question", "context", "answer", "answer_start"])
        writer.writerow(["q", question, context, answer, start if told else ""])
    if answer.strip() and (told or context.find(answer, context.find(answer) + 1) < 0):
        (example,) = read_examples(QUESTIONS, path)
        assert isinstance(example, QuestionExample)
        assert (example.id, example.question, example.context) == ("q", question, context)
        assert [(found.text, found.start) for found in example.answers] == [(answer, start)]
    else:
        with pytest.raises(UserError, match=r"a\.csv, line 2: the answer"):
            read_examples(QUESTIONS, path)


def question(**changes: object) -> str:
    return json.dumps({"id": "a", "question": "Who?", "context": "A man, a man", "answer": "A man", **changes})


def squad(*questions: dict[str, object], **paragraph: object) -> str:
    return json.dumps({"data": [{"paragraphs": [{"context": "In France.", "qas": questions, **paragraph}]}]})


def asked(**changes: object) -> dict[str, object]:
    return {"id": "q1", "question": "Where?", "answers": [{"text": "France", "answer_start": 3}], **changes}


H = "text\tpair\tlabel\n"
BAD: list[tuple[Task, str, str | bytes, str]] = [
    # Tables.
    (PAIRS, "a.tsv", f"{H}a\tb\t0\na\tb\t2\n", r"line 3: the label '2' is not among pairs's, '0', '1'"),
    (PAIRS, "a.tsv", f"{H}a\tb\n", r"line 2 has 2 columns where 3 columns were expected"),
    (PAIRS, "a.tsv", f"{H}a\tb\tc\t0\n", r"line 2 has 4 columns"),
    (PAIRS, "a.tsv", "text\tlabel\na\t0\n", r"line 1 has no column 'pair', for it has 'text', 'label'"),
    (PAIRS, "a.tsv", "text\tpair\tpair\tlabel\na\tb\tc\t0\n", r"line 1 has more than one column 'pair'"),
    (PAIRS, "a.tsv", f"{H}a\t  \t0\n", r"line 2: the second text is empty"),
    (PAIRS, "a.tsv", f"{H}\tb\t0\n", r"line 2: the first text is empty"),
    (PAIRS, "a.tsv", f"{H}a\tb\t\n", r"line 2: the label is empty"),
    (PAIRS, "a.tsv", f"{H}a\tb\t0\ncaf\xe9\tb\t0\n".encode("latin-1"), r"line 3 is not UTF-8 \(byte 0xe9 after 3"),
    (PAIRS, "a.tsv", f"{H}a\tb\t0\n".encode("utf-16"), r"a\.tsv is a binary file, or UTF-16"),
    (PAIRS, "a.tsv", f"{H}{'a' * 2**20}\tb\t0\na\0\tb\t0\n", r"line 3 holds a NUL byte"),
    (PAIRS, "a.tsv", "", r"a\.tsv holds no examples"),
    (PAIRS, "a.tsv", H, r"a\.tsv holds no examples"),
    (PAIRS, "a.tsv", "\n\n", r"a\.tsv holds no examples"),
    (PAIRS, "a.xls", H, r"a\.xls is none of \.tsv, \.csv"),
    (replace(PAIRS, header=False, text="0", pair="1", label="3"), "a.tsv", "a\tb\t0\n", r"line 1 has no column '3'"),
    # CSV.
    (PAIRS, "a.csv", 'text,pair,label\n"a\nb",c,0\nd,e,2\n', r"line 4: the label '2'"),
    (PAIRS, "a.csv", 'text,pair,label\n"a\nb",c,0\n"d"e,f,0\n', r"line 4 is not CSV with its quotes in pairs"),
    (PAIRS, "a.csv", 'text,pair,label\na,b,0\n"c,d,0\ne,f,0\n', r"line 3 is not CSV with its quotes in pairs"),
    (PAIRS, "a.csv", b'text,pair,label\n"a\n\xff",b,0\n', r"line 2 is not UTF-8 \(byte 0xff"),
    # JSON lines.
    (PAIRS, "a.jsonl", '{"text": "a"}\n', r"line 1 has no field 'pair' but 'text'"),
    (PAIRS, "a.jsonl", '\n{"text": "a", "pair": "b", "label": 0}\n{"text"\n', r"line 3 is not one whole JSON object"),
    (PAIRS, "a.jsonl", "[1]\n", r"line 1 is not a JSON object but of the type list"),
    (PAIRS, "a.jsonl", "[" * 100_000, r"line 1 is not one whole JSON object"),
    (PAIRS, "a.jsonl", '{"text": 1, "pair": "b", "label": 0}\n', r"line 1: the first text is not a text but"),
    (PAIRS, "a.jsonl", '{"text": "a", "pair": null, "label": 0}\n', r"line 1: the second text is not a text but noth"),
    (PAIRS, "a.jsonl", '{"text": "a", "pair": "b", "label": 0.5}\n', r"line 1: the label is not a text but"),
    (PAIRS, "a.jsonl", '{"text": "\\ud800", "pair": "b", "label": 0}\n', r"line 1: .* half of a surrogate pair"),
    # Scores.
    (SCORES, "a.tsv", "text\tscore\na\t5.1\n", r"line 2: the score '5\.1' is not within the task's 0 to 5"),
    (SCORES, "a.tsv", "text\tscore\na\tnan\n", r"line 2: the score 'nan' is not a finite number"),
    (SCORES, "a.tsv", "text\tscore\na\tinf\n", r"line 2: the score 'inf' is not a finite number"),
    (SCORES, "a.tsv", "text\tscore\na\thigh\n", r"line 2: the score 'high' is not a number"),
    (SCORES, "a.jsonl", '{"text": "a", "score": NaN}\n', r"line 1: the score nan is not a finite number"),
    (SCORES, "a.jsonl", f'{{"text": "a", "score": 1{"0" * 400}}}\n', r"line 1: the score 10+… is not a number"),
    (SCORES, "a.jsonl", '{"text": "a", "score": true}\n', r"line 1: the score True is not a finite number"),
    # Tags.
    (TAGS, "a.jsonl", '{"words": ["a", "b"], "tags": ["O"]}\n', r"line 1 has 2 words and 1 tags"),
    (TAGS, "a.tsv", "words\ttags\na b c\tO O\n", r"line 2 has 3 words and 2 tags"),
    (TAGS, "a.jsonl", '{"words": [], "tags": []}\n', r"line 1: the words are empty"),
    (TAGS, "a.jsonl", '{"words": ["a", ""], "tags": ["O", "O"]}\n', r"line 1: one of the words is empty"),
    (TAGS, "a.jsonl", '{"words": {"a": 1}, "tags": ["O"]}\n', r"line 1: the words are neither a list nor a text"),
    (CHUNKS, "a.txt", "a B-X\nb B-X I\n", r"line 2 has 3 columns where 2 were expected"),
    (CHUNKS, "a.txt", "a O\n\nb O\nc E-PER\n", r"line 4: the tag 'E-PER' is not IOB, which has O, or B- or I-"),
    (CHUNKS, "a.txt", "a S-PER\n", r"line 1: the tag 'S-PER' is not IOB"),
    (CHUNKS, "a.txt", "a B-\n", r"line 1: the tag 'B-' is not IOB"),
    (CHUNKS, "a.txt", "a\nb\n", r"line 1 has 1 columns, and the tag is looked for in column -1"),
    (replace(CHUNKS, tag_column=4), "a.txt", "a NN O\n", r"line 1 has 3 columns, and the tag is .* column 4"),
    (replace(CHUNKS, labels=("O", "B-X")), "a.txt", "\na O\nb B-Y\n", r"line 3: the tag 'B-Y' is not among chunks's"),
    (CHUNKS, "a.txt", b"a O\n\xff O\n", r"line 2 is not UTF-8"),
    (CHUNKS, "a.txt", "-DOCSTART- O\n\n", r"a\.txt holds no examples"),
    # Questions.
    (QUESTIONS, "a.jsonl", question(answer="woman"), r"line 1: the answer 'woman' is not in its context"),
    (QUESTIONS, "a.jsonl", question(answer="man"), r"line 1: the answer 'man' is in its context more than once"),
    (QUESTIONS, "a.jsonl", question(answer_start=1), r"line 1: the answer 'A man' is not .* at character 1"),
    (QUESTIONS, "a.jsonl", question(answer_start=-12), r"line 1: the answer 'A man' is not .* at character -12"),
    (QUESTIONS, "a.jsonl", question(answer_start="x"), r"line 1: the answer's start 'x' is not a whole number"),
    (QUESTIONS, "a.jsonl", question(answer_start=True), r"line 1: the answer's start True is not a whole number"),
    (QUESTIONS, "a.jsonl", question(answer=3), r"line 1: the answers are neither a text nor a list"),
    (QUESTIONS, "a.jsonl", question(question=" "), r"line 1: the question is empty"),
    (QUESTIONS, "a.jsonl", question(id=[]), r"line 1: the id is neither a text nor a whole number"),
    (QUESTIONS, "a.jsonl", question(is_impossible=True), r"line 1 has 1 answers, which does not go with is_impossible"),
    (QUESTIONS, "a.jsonl", question() + "\n" + question(), r"line 2 has the id 'a' that .*, line 1 has already"),
    (replace(QUESTIONS, answerability=False), "a.jsonl", question(answer=""), r"line 1 has no answer, and questions"),
    # SQuAD's files.
    (SQUAD, "a.json", squad(asked(answers=[{"text": "Spain", "answer_start": 3}])), r"question q1: the answer 'Spain'"),
    (SQUAD, "a.json", squad(asked(), asked()), r"question q1 has the id 'q1' that .* has already"),
    (SQUAD, "a.json", squad(asked(answers=None)), r"question q1 has no list of 'answers'"),
    (SQUAD, "a.json", squad(asked(), context=""), r"question q1: the context is empty"),
    (SQUAD, "a.json", squad(asked(question=None)), r"question q1: the question is not a text but nothing"),
    (SQUAD, "a.json", squad(asked(id=3)), r"data\[0\]\.paragraphs\[0\]\.qas\[0\] has no 'id' that is a text"),
    (SQUAD, "a.json", '{"data": [{"title": ""}]}', r"a\.json, data\[0\] has no list 'paragraphs'"),
    (SQUAD, "a.json", "[]", r"a\.json has no list 'data'"),
    (SQUAD, "a.json", '{"data": [\n{"paragraphs"', r"line 2, column 14 is not JSON"),
    (SQUAD, "a.json", "[" * 100_000, r"a\.json is not JSON that can be read"),
    (SQUAD, "a.json", b'{"data":\n"\xff"}', r"line 2 is not UTF-8"),
    (SQUAD, "a.json", '{"data": []}', r"a\.json holds no examples"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "name", "content", "sentence"), BAD)
def test_what_is_wrong_is_told_in_one_sentence(
    tmp_path: Path, task: Task, name: str, content: str | bytes, sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence) as caught:
        read_examples(task, path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_file_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    for task in (PAIRS, CHUNKS, SQUAD):
        with pytest.raises(UserError, match=r"there is no file .*absent\.tsv"):
            read_examples(task, tmp_path / "absent.tsv")
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(UserError, match=r"folder\.tsv is a folder"):
        read_examples(PAIRS, tmp_path / "folder.tsv")


@pytest.mark.parametrize(
    ("task", "name", "content", "places", "kept"),
    [
        (PAIRS, "a.tsv", H.encode() + b"a\tb\t0\n\xff\tb\t0\na\tb\na\tb\t7\nc\td\t1\n", 3, 2),
        (PAIRS, "a.csv", b'text,pair,label\na,b,0\n"c"d,e,0\nf,\xff,0\n"g\nh",i,1\n', 2, 2),
        (PAIRS, "a.jsonl", b'{\n{"text": "a", "pair": "b", "label": "1"}\n[]\n', 2, 1),
        (CHUNKS, "a.txt", b"a O\nb E-X\n\nc O\nd B-X\n\n\xff O\n", 2, 1),
        (SQUAD, "a.json", squad(asked(), asked(), asked(id="q2", question=""), asked(id="q3")).encode(), 2, 2),
    ],
)
def test_bad_places_can_be_left_out(
    tmp_path: Path, task: Task, name: str, content: bytes, places: int, kept: int
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    said: list[str] = []
    assert len(read_examples(task, path, skip_bad=True, report=said.append)) == kept
    (sentence,) = said
    assert sentence.startswith(f"{path}: {places} places left out, the first: {path}")


def test_a_file_of_bad_places_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"{H}a\tb\t7\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds no examples, for all was left out, the first being: .*line 2"):
        read_examples(PAIRS, path, skip_bad=True, report=lambda sentence: None)
    path.write_text("text\tlabel\na\t0\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no column 'pair'"):  # which no line could mend
        read_examples(PAIRS, path, skip_bad=True)


def test_labels_are_sorted_and_o_comes_first() -> None:
    tagged = [TaggedExample(("a", "b", "c"), ("I-X", "O", "B-X"), "here")]
    assert labels_of(tagged) == ("O", "B-X", "I-X")
    named = [TextExample("a", None, label, "here") for label in ("no", "a", "no", "yes")]
    assert labels_of(named) == ("a", "no", "yes")
    assert with_labels(TEXTS, named).labels == ("a", "no", "yes")
    assert with_labels(PAIRS, named).labels == ("0", "1")
    assert with_labels(SCORES, [TextExample("a", None, 1.0, "here")]) == SCORES
    assert with_labels(TAGS, tagged).labels == ("O", "B-X", "I-X")
    assert with_labels(CHUNKS, [TaggedExample(("a",), ("B-X",), "here")]).labels == ("O", "B-X", "I-X")


def test_text_inputs(tmp_path: Path) -> None:
    assert list(read_inputs(TEXTS, ["one\n", "\n", "two\r\n"])) == [
        TextExample("one", None, None, "standard input, line 1"),
        TextExample("two", None, None, "standard input, line 3"),
    ]
    assert list(read_inputs(PAIRS, ['{"id": 5, "text": "a", "pair": "b"}\n'], name="x")) == [
        TextExample("a", "b", None, "x, line 1", "5")
    ]
    (tmp_path / "a.txt").write_bytes("\ufeffone\ntwo".encode())
    assert [e.text for e in read_inputs(TEXTS, tmp_path / "a.txt") if isinstance(e, TextExample)] == ["one", "two"]
    # The names that everybody uses are understood, whatever the training file's columns were.
    assert len(list(read_inputs(TASKS["cola"], ['{"text": "a"}', '{"sentence": "b"}']))) == 2
    assert len(list(read_inputs(TASKS["mrpc"], ['{"#1 String": "a", "pair": "b"}']))) == 1


def test_the_benchmarks_test_files_are_inputs(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("index\tsentence\n0\tIt went.\n", encoding="utf-8")
    expected = [TextExample("It went.", None, None, f"{path}, line 2")]
    assert list(read_inputs(TASKS["cola"], path)) == list(read_inputs(TASKS["sst2"], path)) == expected
    path.write_text("index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA .\tB .\n", encoding="utf-8")
    assert list(read_inputs(TASKS["mrpc"], path)) == [TextExample("A .", "B .", None, f"{path}, line 2")]


def test_a_text_to_tag_is_split_where_nobody_did_it() -> None:
    lines = ['{"text": "It\'s New York."}', '{"words": "It \'s New York."}', '{"words": ["It", "\'s", "New York."]}']
    raw, spaced, given = (example for example in read_inputs(TAGS, lines) if isinstance(example, TaggedExample))
    assert raw.words == ("It's", "New", "York", ".")
    assert raw.places == ((0, 4), (5, 8), (9, 13), (13, 14))
    assert spaced.words == ("It", "'s", "New", "York.")
    assert spaced.places == ((0, 2), (3, 5), (6, 9), (10, 15))
    assert given.words == ("It", "'s", "New York.")
    assert given.places is None


def test_inputs_come_as_they_are_read() -> None:
    def lines() -> Iterator[str]:
        yield from ("one\n", "two\n")
        raise AssertionError("nobody asked for this line")

    found = read_inputs(TEXTS, lines())
    assert [next(found).where, next(found).where] == ["standard input, line 1", "standard input, line 2"]


def test_other_inputs(tmp_path: Path) -> None:
    assert list(read_inputs(CHUNKS, ["New York is\n"])) == [
        TaggedExample(("New", "York", "is"), None, "standard input, line 1", None, ((0, 3), (4, 8), (9, 11)))
    ]
    assert list(read_inputs(CHUNKS, ['\ufeff{"words": ["New York"]}'])) == [
        TaggedExample(("New York",), None, "standard input, line 1")
    ]
    (tmp_path / "a.conll").write_text("a NN\nb NN\n\nc NN\n", encoding="utf-8")
    found = read_inputs(CHUNKS, tmp_path / "a.conll")
    assert [e.words for e in found if isinstance(e, TaggedExample)] == [("a", "b"), ("c",)]
    (tmp_path / "a.json").write_text(squad({"id": "q", "question": "Where?"}), encoding="utf-8")
    (squad_input,) = read_inputs(SQUAD, tmp_path / "a.json")
    (line_input,) = read_inputs(SQUAD, ['{"id": "q", "question": "Where?", "context": "In France."}'])
    assert squad_input._replace(where="") == line_input._replace(where="")
    assert line_input == QuestionExample("q", "Where?", "In France.", (), False, "standard input, line 1")


@pytest.mark.parametrize(
    ("task", "lines", "sentence"),
    [
        (PAIRS, ["one\n"], r"x holds plain lines, and pairs takes two texts: give JSON lines with 'text' and 'pair'"),
        (QUESTIONS, ["one\n"], r"x holds plain lines, .* 'question' and 'context'"),
        (PAIRS, ['{"text": "a"}'], r"x, line 1 has no field 'pair' but 'text'"),
        (TEXTS, ['{"text": "a"}', "b"], r"x, line 2 is not one whole JSON object"),
        (TEXTS, ["a\0b"], r"x, line 1 holds a NUL byte"),
        (TEXTS, ["a\udcffb"], r"x, line 1 is not UTF-8 \(byte 0xff after 1"),
        (TEXTS, [], r"x holds no examples"),
        (TEXTS, [" \n"], r"x holds no examples"),
        (QUESTIONS, ['{"id": 1, "question": "a", "context": "b"}'] * 2, r"x, line 2 has the id '1' that x, line 1"),
    ],
)
def test_bad_inputs(task: Task, lines: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        list(read_inputs(task, lines, name="x"))
