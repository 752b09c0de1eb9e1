"""From a folder, whatever it holds, to a model ready for use: fine-tuned or pre-trained."""

from collections.abc import Callable
from pathlib import Path

from electra_jax.errors import UserError
from electra_jax.finetune.evaluation import NO_ANSWER_THRESHOLD
from electra_jax.finetune.finetuned import FineTuned
from electra_jax.finetune.folder import RESULTS, SETTINGS, read_progress, read_settings
from electra_jax.networks import TaskConfig
from electra_jax.pretrain.loading import load as load_pretrained
from electra_jax.pretrain.pretrained import Pretrained
from electra_jax.tasks.task import METRICS, Kind, Task

# The name of a task that was fine-tuned elsewhere, of which only the head is known.
IMPORTED = "imported"
KINDS: dict[str, Kind] = {"token_classification": "tagging", "question_answering": "question_answering"}


def load(
    path: Path | str,
    step: int | None = None,
    generator: Path | str | None = None,
    report: Callable[[str], None] | None = None,
) -> Pretrained:
    """Loads a pre-training run, an imported model, a Hugging Face folder of ELECTRA, or a fine-tuned model.

    What has a task's head comes as `FineTuned`, which has `predict`. Of a run, the newest whole checkpoint or that of
    `step`; it may be training at this moment. A damaged newest checkpoint is reported, by a warning unless `report`
    is given, and the one before is used. `generator` is the Hugging Face folder of a discriminator's generator.
    Raises UserError where there is nothing to load, MachineError where all there is is damaged.
    """
    path = Path(path)
    is_ours = (path / SETTINGS).is_file()
    if is_ours and not (path / RESULTS).is_file():
        raise UserError(f"the fine-tuning {path} has not ended: wait for it, or run its command again")
    if is_ours and step is not None:
        raise UserError(f"{path} is a fine-tuned model, which has no steps: leave the step out")
    found = load_pretrained(path, step, generator, report)
    head = found.model.networks.task
    if head is None:
        return found
    if not is_ours:
        task = task_of(head)
        return found if task is None else FineTuned(**vars(found), task=task)
    config, _ = read_settings(path)
    ours = {**vars(found), "length": config.length, "task": config.task}
    return FineTuned(**ours, no_answer_threshold=_threshold_of(path))


def _threshold_of(path: Path) -> float:
    """The one that the saved member answered its held-out questions best with."""
    results = read_progress(path / RESULTS)
    saved = results["saved_member"]
    for member in results["members"] if saved else ():
        if saved.items() <= member.items():
            return member["curve"][-1].get("best_f1_threshold", NO_ANSWER_THRESHOLD)
    return NO_ANSWER_THRESHOLD


def task_of(head: TaskConfig) -> Task | None:
    """The task of a head that was fine-tuned elsewhere, as far as the head tells.

    None for several labels or scores at once, and where labels have one name: no answer could be told from another.
    """
    alone = len(head.labels) == 1  # Transformers takes one output whose kind nobody named for a score
    is_score = head.problem_type == "regression" or (head.problem_type is None and alone)
    kind = KINDS.get(head.name) or ("regression" if is_score else "classification")
    several = head.problem_type == "multi_label_classification" or (kind == "regression" and not alone)
    if several or len(set(head.labels)) < len(head.labels):
        return None
    labels = () if kind in ("regression", "question_answering") else head.labels
    chunks = kind == "tagging" and all(label == "O" or label[:2] in ("B-", "I-") for label in labels)
    metrics = METRICS[kind] if chunks else METRICS[kind][:1]
    if kind == "tagging" and not chunks:
        metrics = ("accuracy",)
    return Task(
        name=IMPORTED,
        kind=kind,
        metrics=metrics,
        labels=labels,
        scheme="iob2" if chunks else "none",
        # Whether it learned texts or pairs, and from which scores, no head says.
        pair_optional=kind in ("classification", "regression"),
        bounded=False,
    )
