"""From a fine-tuning's folder to a model ready for use."""

from pathlib import Path

import pytest

from electra_jax.errors import UserError
from electra_jax.files import write_json
from electra_jax.finetune.answers import Answered
from electra_jax.finetune.finetuned import FineTuned
from electra_jax.finetune.folder import RESULTS, SETTINGS
from electra_jax.finetune.loading import load
from electra_jax.finetune.results import MemberResult, results_json
from electra_jax.interop.portable import Portable, write_portable
from electra_jax.settings import to_json
from tests.finetune.tiny_programs import tiny_config
from tests.finetune.tiny_tasks import task, tiny_model
from tests.text.conftest import trained

MAYBE = task("question_answering", answerability=True)
ASKED = [("who flew", "Peter flew to London"), ("where", "the cat sat on the mat")]


def member(seed: int, f1: float, threshold: float) -> MemberResult:
    final = {"step": 1, "epoch": 1.0, "seconds": 1.0, "loss": 1.0, "f1": f1, "best_f1_threshold": threshold}
    return MemberResult(seed, 1e-3, False, 0, [final])


def write_finetuned(folder: Path, *members: MemberResult) -> None:
    """What a fine-tuning leaves behind at its end."""
    model, config = tiny_model(MAYBE, length=48), tiny_config(task=MAYBE, length=48)
    write_portable(folder, Portable(model.model.networks, model.params, model.tokenizer, {}))
    write_json(folder / SETTINGS, {"settings": to_json(config), "origin": {}})
    write_json(folder / RESULTS, results_json(config, members, {}))


def test_no_answer_is_said_from_the_saved_member_s_threshold_on(tmp_path: Path) -> None:
    write_finetuned(tmp_path, member(0, 0.1, 5.0), member(1, 0.9, -1e9), member(2, 0.2, 7.0))
    always_above = load(tmp_path)
    assert isinstance(always_above, FineTuned)
    assert always_above.no_answer_threshold == -1e9
    found = [answer for answer in always_above.predict(ASKED) if isinstance(answer, Answered)]
    assert [answer.text for answer in found] == ["", ""]
    write_finetuned(tmp_path, member(0, 0.1, 5.0), member(1, 0.9, 1e9))
    never_above = load(tmp_path)
    assert isinstance(never_above, FineTuned)
    found = [answer for answer in never_above.predict(ASKED) if isinstance(answer, Answered)]
    assert all(answer.text for answer in found)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    """Its ids would mean other words, without anything else being wrong."""
    write_finetuned(tmp_path, member(0, 0.5, 0.0))
    trained(vocab_size=150).save(tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"has [\d,]+ pieces, but the model there a vocabulary of [\d,]+: they do not"):
        load(tmp_path)
