"""The page that goes with an exported model: what it is, how it was trained, on what, and what was measured."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.config import PretrainConfig
from electra_jax.interop.portable import MODEL
from electra_jax.networks import NetworksConfig
from electra_jax.settings import to_json
from electra_jax.text.tokenizer import Tokenizer
from electra_jax.training.metrics import read_metrics

CLASSES = {
    "discriminator": ("AutoModelForPreTraining", "logits above 0 say that a token was replaced"),
    "generator": ("AutoModelForMaskedLM", "logits score the vocabulary at each position"),
    "sequence_classification": ("AutoModelForSequenceClassification", "logits score the labels of a text"),
    "token_classification": ("AutoModelForTokenClassification", "logits score the labels of each token"),
    "question_answering": ("AutoModelForQuestionAnswering", "start_logits and end_logits score an answer's ends"),
}
MEASURED = {
    "mlm_accuracy": "masked tokens predicted by the generator",
    "mlm_loss": "generator's loss at masked tokens, nats",
    "rtd_auc": "detection AUC, against its own generator",
    "rtd_auc_unigram": "detection AUC, against unigram draws",
    "rtd_loss": "detection loss, nats",
    "rtd_precision": "detection precision at probability .5",
    "rtd_recall": "detection recall at probability .5",
    "replaced_share": "share of tokens replaced",
}


class Facts(NamedTuple):
    """What is known of how a model came to be; None where it is not."""

    step: int
    config: PretrainConfig | None = None
    data: dict[str, Any] | None = None  # the data set's description
    metrics: dict[str, float] | None = None  # held out, by name
    measured_at: int = 0  # step
    source: dict[str, Any] | None = None  # of an imported model, or a fine-tuned one

    @property
    def fine_tuned(self) -> dict[str, Any] | None:
        """What was fine-tuned here, and how."""
        return self.source if self.source is not None and self.source.get("format") == "fine-tuning" else None


def read_facts(run: Path, step: int, config: PretrainConfig | None) -> Facts:
    """What a run's folder, or an imported model's, says of the model at a step."""
    if config is None:
        try:
            source = json.loads((run / MODEL).read_text(encoding="utf-8"))["source"]
        except (OSError, ValueError, KeyError):
            source = {"format": "huggingface", "folders": {"model": str(run)}}
        return Facts(step, source=source)
    try:
        data = json.loads((run / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        data = None
    lines = [line for line in read_metrics(run) if line["step"] <= step and "eval/mlm_loss" in line]
    metrics = {key.removeprefix("eval/"): value for key, value in lines[-1].items()} if lines else None
    return Facts(step, config, data, metrics, lines[-1]["step"] if lines else 0)


def model_card(networks: NetworksConfig, head: str, tokenizer: Tokenizer, facts: Facts, max_length: int) -> str:
    """Markdown with the front matter that the model hub reads."""
    name = facts.config.name if facts.config else "model"
    cls, meaning = CLASSES[head]
    sizes = networks.each["generator" if head == "generator" else "discriminator"]
    casing = tokenizer.settings
    parts = [
        "---\nlibrary_name: transformers\ntags:\n- electra\n---",
        f"# ELECTRA {name}: {head.replace('_', ' ')}",
        f"{sizes.num_hidden_layers} layers of {sizes.hidden_size}, {sizes.num_attention_heads} attention heads, "
        f"embeddings of {sizes.embedding_size}; at most {max_length} tokens.",
        "```python\nfrom transformers import AutoTokenizer, " + cls + "\n\n"
        "# FOLDER is where this page lies.\n"
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\nmodel = {cls}.from_pretrained("FOLDER")\n'
        f'outputs = model(**tokenizer("A text.", return_tensors="pt"))  # {meaning}\n```',
        "## Tokenizer",
        f"{casing['kind']}, {tokenizer.vocab_size:,} pieces; lower case: {_yes(casing['lower_case'])}; accents "
        f"stripped: {_yes(casing['strip_accents'])}.",
    ]
    if networks.task is not None:
        parts += ["## Labels", ", ".join(networks.task.labels)]
    if facts.fine_tuned is not None:
        parts += ["## Fine-tuning", _fine_tuning(facts.fine_tuned)]
    elif facts.source is not None:
        parts += ["## Origin", f"Imported, format {facts.source.get('format')}; pre-training settings are not known."]
    begun_with = facts.config.train.init_from if facts.config else None
    if begun_with is not None:
        parts += ["## Origin", f"Training began with the weights of `{Path(begun_with).name}`."]
    if facts.data is not None:
        parts += ["## Corpus", _corpus(facts.data)]
    if facts.fine_tuned is None:
        parts += ["## Measured", _measured(facts)]
    if facts.config is not None:
        tokens = facts.step * facts.config.train.batch_size * facts.config.data.length
        settings = {key: value for key, value in to_json(facts.config).items() if key != "runtime"}
        settings["train"]["init_from"] = begun_with and Path(begun_with).name  # no path of the machine
        parts += [
            "## Training",
            f"{facts.step:,} of {facts.config.train.steps:,} steps of {facts.config.train.batch_size} rows of "
            f"{facts.config.data.length} tokens: at most {tokens:,} tokens.",
            f"```json\n{json.dumps(settings, indent=2)}\n```",
        ]
    return "\n\n".join(parts) + "\n"


def _fine_tuning(source: dict[str, Any]) -> str:
    begun = "random weights" if source["from"] == "none" else f"the weights of `{Path(source['from']).name}`"
    lines = [
        f"{source['kind'].replace('_', ' ').capitalize()}, task `{source['task']}`, from {begun}: seed "
        f"{source['seed']}, learning rate {source['learning_rate']:g}, {source['epochs']:g} epochs, rows of at most "
        f"{source['length']} tokens. The best of the seeds and learning rates that were tried, by {source['metric']} "
        "on the held-out examples, hence a little too good:"
    ]
    if "range" in source:
        low, high = source["range"]
        lines.insert(0, f"The logit is the score scaled to 0…1: the score is {low:g} + {high - low:g} × logit.\n")
    rows = [f"| {name} | {value:.4f} |" for name, value in source["measured"].items()]
    return "\n".join([*lines, "", "| held out | |", "|---|---|", *rows])


def _corpus(data: dict[str, Any]) -> str:
    names = (spec if spec.startswith("tfds:") else Path(spec).resolve().name for spec in data["corpus"])
    sources = ", ".join(f"`{name}`" for name in names)
    counts = data["counts"]["train"]
    return (
        f"{sources}: {counts['documents']:,} documents, {counts['words']:,} words, {counts['tokens']:,} tokens in "
        f"{counts['rows']:,} rows of {data['length']} ({data['packing']} packing)."
    )


def _measured(facts: Facts) -> str:
    if not facts.metrics:
        return "Nothing was measured on held-out text."
    rows = [
        f"| {meaning} | {facts.metrics[name]:.4f} |"
        for name, meaning in MEASURED.items()
        if isinstance(facts.metrics.get(name), float)
    ]
    return "\n".join([f"| on held-out rows, step {facts.measured_at:,} | |", "|---|---|", *rows])


def _yes(value: bool) -> str:
    return "yes" if value else "no"
