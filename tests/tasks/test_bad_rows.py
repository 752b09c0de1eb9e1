"""What is left out of a file takes nothing with it, is counted, and is never what names the columns."""

from dataclasses import replace
from pathlib import Path

import pytest

from electra_jax.errors import UserError
from electra_jax.finetune.glue import find_glue
from electra_jax.tasks.data import read_data
from electra_jax.tasks.examples import TextExample
from electra_jax.tasks.reading import read_examples, read_inputs
from tests.tasks.own_files import PAIRS, write

QQP = [
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "1\t2\t3\tWho?\tWhy?\t0",
    "4\t5\t6\tHow?",
    "7\t8\t9\t \tWhy?\t1",
    "a\tb\tc\td\te\tf\t1",
    "1\t2\t3\tWhat?\tWhen?\t1",
]


def test_broken_rows_of_qqp_are_left_out_and_told(tmp_path: Path) -> None:
    """As `glue` reads it."""
    folder = write(tmp_path / "QQP", dict.fromkeys(("train.tsv", "dev.tsv"), "\n".join(QQP) + "\n"))
    (place,), _ = find_glue(str(tmp_path), ["qqp"], must=True)
    told: list[str] = []
    data = read_data(place.task, place.data, report=told.append)
    for examples, name, sentence in zip((data.train, data.dev["dev"]), ("train", "dev"), told, strict=True):
        path = folder / f"{name}.tsv"
        assert [example.where for example in examples] == [f"{path}, line {number}" for number in (2, 6)]
        first = f"{path}, line 3 has 4 columns where 6 columns were expected"
        assert sentence == f"{path}: 3 places left out, the first: {first}"
    path = folder / "train.tsv"
    assert read_examples(place.task, path, report=told.append) == data.train
    with pytest.raises(UserError, match=r"line 3 has 4 columns .* --skip-bad"):
        read_examples(replace(place.task, leave_out_broken=False), path)
    with pytest.raises(UserError, match=r"line 3 has 4 columns .* --skip-bad"):  # there is an answer to each row
        list(read_inputs(place.task, path))
    path.write_text("\n".join([*QQP, "1\t2\t3\tWho?\tWhy?\t"]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 7: the label is empty"):
        read_examples(place.task, path)


def csv_rows(*bad: tuple[int, str]) -> str:
    """A header, and ten rows on the lines 2 to 11, some of them bad."""
    rows = {number: f"text {number},pair,{number % 2}" for number in range(2, 12)} | dict(bad)
    return "text,pair,label\n" + "".join(row + "\n" for row in rows.values())


@pytest.mark.parametrize(
    ("content", "places", "kept"),
    [
        (csv_rows((4, '"c,d,0')), 1, 9),
        (csv_rows((4, '"c,d,0'), (8, '"c,d,0')), 2, 8),
        (csv_rows((4, '"c,d,0'), (8, 'a,"b, and ""c""",1')), 1, 9),
        (csv_rows((4, '"c,d,0'), (11, 'a,"b\n",1')), 1, 9),
        (csv_rows((4, 'c,d,"0'), (8, 'a,b",1')), 1, 9),  # the quotes make a pair, around too few cells
        (csv_rows((11, '"c,d,0')), 1, 9),
    ],
)
def test_a_quote_that_nobody_closed_takes_no_good_row_with_it(
    tmp_path: Path, content: str, places: int, kept: int
) -> None:
    path, told = tmp_path / "a.csv", list[str]()
    path.write_text(content, encoding="utf-8")
    examples = read_examples(PAIRS, path, skip_bad=True, report=told.append)
    assert len(examples) == kept
    for example in examples:
        assert isinstance(example, TextExample)
        if example.text.startswith("text "):
            assert example.where == f"{path}, line {example.text.removeprefix('text ')}"
    (sentence,) = told
    assert f"a.csv: {places} place{'s' * (places > 1)} left out, the first: {path}, line " in sentence


@pytest.mark.parametrize(("name", "head"), [("a.tsv", b"t\xffxt\tpair\tlabel\n"), ("a.csv", b'text,pair,"label\n')])
def test_a_bad_header_is_never_left_out(tmp_path: Path, name: str, head: bytes) -> None:
    """Or the first record would name the columns."""
    path = tmp_path / name
    path.write_bytes(head + b"text\tpair\tlabel\nx\ty\t0\n")
    with pytest.raises(UserError, match=r"line 1 is not (UTF-8|CSV) .*: mend it, for it names the columns"):
        read_examples(PAIRS, path, skip_bad=True)
