"""A fine-tuning's curves as one picture: every member, and the median of each learning rate."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from electra_jax.finetune.results import MemberResult, metrics_of

MOST_METRICS = 3


def draw_curves(path: Path, results: Sequence[MemberResult], main: str) -> Path:
    """Writes the training loss and the first metrics against epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = [name for name in metrics_of(results) if name in results[0].curve[0]]  # test files' come at the end only
    metrics = [main, *(name for name in known if name != main)][:MOST_METRICS]
    rates = sorted({result.learning_rate for result in results})
    figure, axes = pyplot.subplots(
        1, 1 + len(metrics), figsize=(4.2 * (1 + len(metrics)), 3.4), constrained_layout=True
    )
    for axis, metric in zip(axes, ["loss", *metrics], strict=True):
        for number, rate in enumerate(rates):
            members = [result.curve for result in results if result.learning_rate == rate]
            for curve in members:
                points = [(at["epoch"], at[metric]) for at in curve if at.get(metric) is not None]
                if points:
                    axis.plot(*zip(*points, strict=True), color=f"C{number}", linewidth=0.7, alpha=0.5)
            whole = [result.curve for result in results if result.learning_rate == rate and not result.diverged]
            if whole:
                epochs = [at["epoch"] for at in whole[0]]
                medians = np.median([[at[metric] for at in curve] for curve in whole], axis=0)
                axis.plot(epochs, medians, color=f"C{number}", marker=".", label=f"{rate:g}, median")
        axis.set_title("training loss" if metric == "loss" else f"{metric}, held out", fontsize=10)
        axis.set_xlabel("epochs")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False, title="learning rate", title_fontsize=8)
    aside = path.with_name(f".{path.stem}.part.png")
    figure.savefig(aside, dpi=130)
    pyplot.close(figure)
    return aside.replace(path)
