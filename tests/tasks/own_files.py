"""Tasks of each kind and files for them, for the tests that read files."""

import json
from dataclasses import replace
from pathlib import Path

from electra_jax.tasks.task import Task

TEXTS = Task(name="texts", kind="classification", layout="table", metrics=("accuracy",))
PAIRS = replace(TEXTS, name="pairs", pair="pair", labels=("0", "1"))
SCORES = Task(name="scores", kind="regression", layout="table", metrics=("mse",), label="score", low=0.0, high=5.0)
TAGS = Task(name="tags", kind="tagging", layout="table", metrics=("f1",), text="words", label="tags")
CHUNKS = replace(TAGS, name="chunks", layout="columns", scheme="iob2")
QUESTIONS = Task(
    name="questions", kind="question_answering", layout="table", metrics=("f1",), text="question", pair="context",
    label="answer", answerability=True,
)  # fmt: skip

WHERE = {"id": "a", "question": "Where?", "answers": [{"text": "France", "answer_start": 17}]}


def squad(*questions: dict[str, object], context: str = "Normandy lies in France.") -> str:
    return json.dumps({"version": "x", "data": [{"title": "", "paragraphs": [{"context": context, "qas": questions}]}]})


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder
