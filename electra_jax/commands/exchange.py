"""import, export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from electra_jax.commands.opening import load_model
from electra_jax.commands.parsing import parse
from electra_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ImportArgs:
    source: Annotated[Path, tyro.conf.arg(name="from")]  # a Hugging Face folder, or a TensorFlow 1 checkpoint
    out: Path  # the imported model's new folder
    format: Literal["huggingface", "tf1"] = "huggingface"
    generator: Path | None = None  # huggingface: the folder of the discriminator's own generator
    vocab: Path | None = None  # tf1: the vocab.txt it was trained with
    cased: bool = False  # tf1: capitals and accents count
    head_size: int | None = None  # tf1: of an attention head, which a checkpoint does not say; None: 64, as published


def import_model(args: list[str]) -> None:
    """Bring a published model here: a Hugging Face folder, a TensorFlow 1 checkpoint."""
    parsed = parse(ImportArgs, "import", args, import_model.__doc__)
    from electra_jax.interop.portable import describe, read_huggingface, write_imported

    if parsed.format == "tf1":
        if parsed.vocab is None or parsed.generator is not None:
            raise UserError(
                "a TensorFlow 1 checkpoint holds both networks and no vocabulary: give --vocab vocab.txt only"
            )
        from electra_jax.interop.tf1 import read_tf1

        model = read_tf1(parsed.source, parsed.vocab, not parsed.cased, head_size=parsed.head_size or 64)
    elif parsed.vocab or parsed.head_size or parsed.cased:
        raise UserError("a Hugging Face folder says its vocabulary, casing and heads itself: leave these options out")
    else:
        model = read_huggingface(parsed.source, parsed.generator)
    write_imported(parsed.out, model)
    print(f"{parsed.out}: {describe(model)}")


@dataclass(frozen=True, kw_only=True)
class ExportArgs:
    run: Path  # a run or an imported model
    out: Path  # a new folder
    format: Literal["huggingface", "stablehlo"] = "huggingface"
    step: int | None = None  # a checkpoint; None: the newest


def export(args: list[str]) -> None:
    """Give a model away: Hugging Face folders, or programs that need JAX alone."""
    parsed = parse(ExportArgs, "export", args, export.__doc__)
    from electra_jax.interop.export import export_huggingface, export_stablehlo
    from electra_jax.interop.model_card import read_facts

    run = load_model(parsed.run, parsed.step)
    model = (parsed.out, run.model.networks, run.params, run.tokenizer)
    if parsed.format == "stablehlo":
        written = export_stablehlo(*model, run.length)
    else:
        written = export_huggingface(*model, read_facts(parsed.run, run.step, run.config))
    for path in written:
        print(path)
