"""One task of each kind, both tokenizers, and texts as users have them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from parity import random_params

from electra_jax.config import ModelConfig, ObjectiveConfig
from electra_jax.finetune.finetuned import FineTuned
from electra_jax.finetune.start import head_of
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.networks import NetworksConfig
from electra_jax.tasks.examples import Answer, QuestionExample
from electra_jax.tasks.task import METRICS, Kind, Task
from electra_jax.text.tokenizer import Tokenizer
from tests.text.conftest import trained

TOKENIZERS = ("sentencepiece", "wordpiece")
WHERE = "train.tsv, line 7"
WORDS = ("The", "value", "of", "an", "expression", "is", "returned", ",", "it's", "(list's)", "1895-1943", "é")
ODD = ("e\u0301", "日本語", "😀", "ﬁne", "½", "İ", "…", "a\u00adb", "\u200b", "Straße", "㍿", "[MASK]", "x" * 130)

words = st.sampled_from(WORDS + ODD) | st.text(max_size=6)
texts = st.lists(words, max_size=40).map(" ".join) | st.text(max_size=60)


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return trained(tokenizer=kind)


def task(kind: Kind, **changes: Any) -> Task:
    return Task(**{"name": "tiny", "kind": kind, "layout": "table", "metrics": METRICS[kind][:1], **changes})


def question(context: str, *answers: Answer, text: str = "what is it?", impossible: bool = False) -> QuestionExample:
    return QuestionExample("q", text, context, answers, impossible, WHERE)


def squad(file: Path) -> list[QuestionExample]:
    return [
        QuestionExample(
            asked["id"],
            asked["question"],
            paragraph["context"],
            tuple(Answer(answer["text"], answer["answer_start"]) for answer in asked["answers"]),
            asked.get("is_impossible", False),
            file.name,
        )
        for article in json.loads(file.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def tiny_model(task: Task, tokenizer: str = "wordpiece", length: int = 64, form: str = "paper") -> FineTuned:
    """A model of random weights with a task's head; of a form that Transformers knows."""
    found = tokenizer_of(tokenizer)
    sizes = ModelConfig(
        vocab_size=found.vocab_size,
        embedding_size=16,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
    )
    model = Electra(NetworksConfig(discriminator=sizes, task=head_of(task, form)), Kernels(unroll_layers=False))
    return FineTuned(model, random_params(model.networks), found, length, ObjectiveConfig(mask_prob=0.15), task=task)
