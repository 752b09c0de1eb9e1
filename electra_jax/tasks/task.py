"""What a task is: its kind, its files, its labels, its metrics and the recipe that goes with it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from electra_jax.settings import Settings

Kind = Literal["classification", "regression", "tagging", "question_answering"]
# table: TSV, CSV or JSONL, told apart by the file's name; jsonl: an object a line; columns: a word a line, a blank line
# between sentences; squad: SQuAD's JSON.
Layout = Literal["table", "jsonl", "columns", "squad"]
# Of one kind only.
KIND_OF: dict[str, Kind] = {"columns": "tagging", "squad": "question_answering"}
METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "matthews"),
    "regression": ("pearson", "spearman", "mse"),
    "tagging": ("f1", "precision", "recall", "accuracy"),
    "question_answering": ("f1", "exact_match"),
}


@dataclass(frozen=True, kw_only=True)
class Task(Settings):
    """A task, known or the user's own. Columns of a table are named by their header or numbered from 0."""

    name: str
    kind: Kind
    layout: Layout | None = None  # None: each file's name says it
    metrics: tuple[str, ...] = ()  # the first one chooses the best member
    labels: tuple[str, ...] = ()  # in the order of the outputs; none: those of the training file, sorted
    # Files in the data folder; several that hold out are evaluated apart, the first one being the main one.
    train: str = "train.tsv"
    dev: tuple[str, ...] = ("dev.tsv",)
    test: tuple[str, ...] = ()
    # Tables. Under a name that is None, one of the kind's usual names.
    header: bool = True
    quoted: bool = False  # "…" around fields, as CSV has it; GLUE's TSV has bare quotes
    text: str | None = None
    pair: str | None = None  # None: there is no second text
    pair_optional: bool = False  # whether a record may do without its second text
    label: str | None = None
    # Rows of the wrong width or with a blank text are left out, counted and told (the published code, on QQP).
    leave_out_broken: bool = False
    # Columns, and tags in tables.
    word_column: int = 0
    tag_column: int = -1
    scheme: Literal["iob1", "iob2", "none"] = "none"  # of the tags read; none: each word's tag stands for itself
    # Regression: the scores' range, which the loss scales to 0…1 (paper's STS-B). None: as the training examples have.
    low: float | None = 0.0
    high: float | None = 1.0
    # Whether a score outside is an error, or only scaled beyond 0…1; low, high: an error on that side alone.
    bounded: bool | Literal["low", "high"] = True
    # Question answering: whether there are questions without an answer (SQuAD 2.0).
    answerability: bool = False
    # Recipe (paper, Appendix B): where it differs from three epochs of rows of 128.
    epochs: float = 3.0
    length: int = 128
    swap_pairs: bool = False  # adds each pair the other way round to the training rows

    def check(self) -> None:
        known = METRICS[self.kind]
        self.require(bool(self.metrics), "name at least one metric")
        for name in self.metrics:
            self.require(name in known, f"there is no metric {name!r} for {self.kind}: choose among {', '.join(known)}")
        two = self.kind != "classification" or "f1" not in self.metrics or len(self.labels) in (0, 2)
        self.require(two, f"f1 is of two labels, the second being positive, and there are {len(self.labels)}: macro_f1")
        self.require(len(set(self.labels)) == len(self.labels), f"labels must differ: {', '.join(self.labels)}")
        self.require(bool(self.dev), "name at least one held-out file")
        for files in (self.dev, self.test):
            self.require(len(set(files)) == len(files), f"name each file once, not {', '.join(files)}")
        only = KIND_OF.get(self.layout or "", self.kind)
        self.require(only == self.kind, f"the layout {self.layout} is for {only}, not for {self.kind}")
        ordered = self.low is None or self.high is None or self.low < self.high
        self.require(ordered, f"low must be below high, not {self.low} and {self.high}")
        self.require(self.epochs > 0, f"epochs must be above 0, not {self.epochs}")
        self.require(8 <= self.length <= 65536, f"length must be 8 to 65,536 tokens, not {self.length}")

    @property
    def scale(self) -> tuple[float, float]:
        """The scores' range, once it is known."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def bounds(self) -> tuple[float, float]:
        """Outside of which a score is an error."""
        low = self.low if self.bounded in (True, "low") else None
        high = self.high if self.bounded in (True, "high") else None
        return -math.inf if low is None else low, math.inf if high is None else high


def with_usual(said: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody said of a task, and of what was not said, what is usual for its kind."""
    kind, usual = said.get("kind"), dict[str, Any]()
    if kind == "classification":
        usual = {"metrics": ("accuracy", "macro_f1")}
    elif kind == "regression":
        usual = {"metrics": ("pearson", "spearman", "mse"), "low": None, "high": None}
    elif kind == "tagging":
        # Without chunks there is nothing but words to count.
        in_chunks = said.get("scheme", "none") != "none"
        usual = {"metrics": ("f1", "precision", "recall") if in_chunks else ("accuracy",)}
    elif kind == "question_answering":
        usual = {"metrics": ("f1", "exact_match"), "epochs": 2.0, "length": 512}
    return {**usual, **said}
