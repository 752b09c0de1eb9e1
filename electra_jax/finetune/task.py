"""What a task is: its kind, its files, its labels, its metrics and the recipe that goes with it."""

from dataclasses import dataclass
from typing import Literal

from electra_jax.settings import Settings

Kind = Literal["classification", "regression", "tagging", "question_answering"]
# table: TSV, CSV or JSONL, told apart by the file's name; columns: a word a line, a blank line between sentences.
Layout = Literal["table", "columns", "squad"]
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
    layout: Layout
    metrics: tuple[str, ...]  # the first one chooses the best member
    labels: tuple[str, ...] = ()  # in the order of the outputs; none: those of the training file, sorted
    # Files in the data folder; several that hold out are evaluated apart, the first one being the main one.
    train: str = "train.tsv"
    dev: tuple[str, ...] = ("dev.tsv",)
    test: tuple[str, ...] = ()
    # Tables.
    header: bool = True
    quoted: bool = False  # "…" around fields, as CSV has it; GLUE's TSV has bare quotes
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    # Columns, and tags in tables.
    tag_column: int = -1
    scheme: Literal["iob1", "iob2", "none"] = "none"  # of the tags read; none: each word's tag stands for itself
    # Regression: the scores' range, which the loss scales to 0…1 (paper's STS-B).
    low: float = 0.0
    high: float = 1.0
    bounded: bool = True  # whether a score outside is an error, or only scaled beyond 0…1
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
        self.require(self.low < self.high, f"low must be below high, not {self.low} and {self.high}")
        self.require(self.epochs > 0, f"epochs must be above 0, not {self.epochs}")
        self.require(8 <= self.length <= 65536, f"length must be 8 to 65,536 tokens, not {self.length}")
