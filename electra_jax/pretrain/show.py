"""What a run made of a text, for people: in columns, coloured where the terminal can."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from electra_jax.pretrain.answers import Corruption, Detection, Filled
from electra_jax.pretrain.pretrained import MASK

# (from this probability of being replaced, colour)
COLOURS = ((0.75, "bold red"), (0.5, "red"), (0.25, "yellow"), (0.0, "green"))

LEARNED = {
    "mlm_accuracy": "masked tokens predicted",
    "mlm_loss": "masked tokens, loss in nats",
    "rtd_auc": "detection AUC, run's own generator",
    "rtd_auc_unigram": "detection AUC, unigram draws",
    "rtd_loss": "detection loss in nats",
}


def colour_of(probability: float) -> str:
    """The colour of a probability of being replaced."""
    return next(colour for least, colour in COLOURS if probability >= least)


def show_detection(detection: Detection, console: Console) -> None:
    """The tokens with their percentages below them, in as many lines as the width asks for."""
    cells: list[tuple[str, str, str]] = []
    end = 0
    for token in detection.tokens:
        inside = bool(cells) and token.start == end and token.text[:1].isalnum()
        shown = printable(token.text) or "▁"
        cells.append((f"##{shown}" if inside else shown, percent(token.probability), colour_of(token.probability)))
        end = token.end
    for line in lines_of(cells, console.width):
        widths = [max(cell_len(word), cell_len(below)) for word, below, _ in line]
        print_line(console, [(word, width, colour) for (word, _, colour), width in zip(line, widths, strict=True)])
        print_line(console, [(below, width, colour) for (_, below, colour), width in zip(line, widths, strict=True)])
    print_legend(console)


def show_filled(filled: Filled, console: Console) -> None:
    """The likeliest tokens of each mask, the likeliest first."""
    console.print(Text(printable(filled.text)), soft_wrap=True)
    for number, mask in enumerate(filled.masks, 1):
        if len(filled.masks) > 1:
            console.print(Text(f"{MASK} {number} of {len(filled.masks)}", "dim"))
        for candidate in mask.candidates:
            console.print(Text(f"{candidate.probability:7.2%}  {printable(candidate.token)}"), soft_wrap=True)
    console.print()


def show_corruption(corruption: Corruption, console: Console) -> None:
    """One token a line: the original, what is written, how much it is suspected, and what was done to it."""
    tokens = corruption.tokens
    first = max(cell_len("original"), *(cell_len(printable(token.original)) for token in tokens))
    second = max(cell_len("written"), *(cell_len(printable(token.written)) for token in tokens))
    print_line(console, [("original", first, "bold"), ("written", second, "bold"), ("suspected", 9, "bold")])
    for token in tokens:
        done = "replaced" if token.replaced else "masked, written again as it was" if token.masked else ""
        line = [
            (printable(token.original), first, ""),
            (printable(token.written), second, "bold" if token.replaced else "dim"),
            (f"{percent(token.probability):>9}", 9, colour_of(token.probability)),
            (done, len(done), ""),
        ]
        print_line(console, line)
    masked, replaced = sum(token.masked for token in tokens), sum(token.replaced for token in tokens)
    console.print(f"{len(tokens)} tokens, {masked} masked, {replaced} replaced", highlight=False)
    print_legend(console)


def print_legend(console: Console) -> None:
    """What the percentages and, where there are any, their colours mean."""
    text = Text.assemble(("% probability of having been replaced", "dim"))
    if console.color_system:
        names = ("75 and more", "50 to 75", "25 to 50", "below 25")
        for name, (_, colour) in zip(names, COLOURS, strict=True):
            text.append(", ").append(name, colour)
    console.print(text, soft_wrap=True)
    console.print()


def percent(probability: float) -> str:
    return f"{probability:.0%}"


def printable(text: str) -> str:
    """The text without what would move the cursor or change the terminal's state."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def lines_of(cells: list[tuple[str, str, str]], width: int) -> Iterator[list[tuple[str, str, str]]]:
    """The cells in lines that fit the width, two spaces between them."""
    line: list[tuple[str, str, str]] = []
    used = 0
    for cell in cells:
        size = max(cell_len(cell[0]), cell_len(cell[1])) + 2
        if line and used + size - 2 > width:
            yield line
            line, used = [], 0
        line.append(cell)
        used += size
    if line:
        yield line


def print_line(console: Console, cells: list[tuple[str, int, str]]) -> None:
    """(text, width, style) cells, two spaces between them and none at the end."""
    line = Text()
    for number, (text, width, style) in enumerate(cells):
        line.append(text, style)
        if number + 1 < len(cells):
            line.append(" " * (width - cell_len(text) + 2))
    line.rstrip()
    console.print(line, soft_wrap=True)


def show_learned(metrics: dict[str, float], unigram: Int64[np.ndarray, " v"], console: Console) -> None:
    """Held-out metrics as a table, next to those of a model that knows the corpus' word counts and nothing else.

    It predicts the commonest token everywhere, and gives every token the same probability of being replaced.
    """
    share = unigram[unigram > 0] / unigram.sum()
    nothing = {"mlm_accuracy": float(share.max()), "mlm_loss": float(-(share * np.log(share)).sum())}
    if "rtd_auc" in metrics:
        p = metrics["replaced_share"]
        prior = -(p * np.log(p) + (1 - p) * np.log(1 - p)) if 0 < p < 1 else 0.0
        nothing |= {"rtd_auc": 0.5, "rtd_auc_unigram": 0.5, "rtd_loss": float(prior)}
    table = Table("held out", "learned", "doing nothing", title="What was learned")
    for key, name in LEARNED.items():
        if key in metrics:
            table.add_row(name, f"{metrics[key]:.3f}", f"{nothing[key]:.3f}")
    console.print(table)
