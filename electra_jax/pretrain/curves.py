"""A run's curves as one picture."""

from pathlib import Path

from electra_jax.training.metrics import read_metrics

PANELS = (
    ("Masked language modelling loss (nats)", ("train/mlm_loss", "eval/mlm_loss"), None),
    ("Masked accuracy", ("train/mlm_accuracy", "eval/mlm_accuracy"), None),
    ("Replaced-token detection loss (nats)", ("train/rtd_loss", "eval/rtd_loss"), None),
    ("Detection AUC, held out", ("eval/rtd_auc", "eval/rtd_auc_unigram"), 0.5),
)
NAMES = {
    "eval/rtd_auc": "against the run's own generator",
    "eval/rtd_auc_unigram": "against unigram draws",
}


def draw_curves(run: Path) -> Path | None:
    """Writes RUN/curves.png from its metrics; None where there is nothing to draw yet."""
    lines = read_metrics(run)
    panels = [panel for panel in PANELS if any(key in line for key in panel[1] for line in lines)]
    if not panels:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), constrained_layout=True)
    for axis, (title, keys, floor) in zip([axes] if len(panels) == 1 else axes, panels, strict=True):
        for key in keys:
            points = [(line["tokens"] / 1e6, line[key]) for line in lines if line.get(key) is not None]
            if points:
                held_out = key.startswith("eval/")
                label = NAMES.get(key, "held out" if held_out else "training")
                style = {"marker": ".", "linewidth": 1.6} if held_out else {"linewidth": 0.7, "alpha": 0.6}
                axis.plot(*zip(*points, strict=True), label=label, **style)
        if floor is not None:
            axis.axhline(floor, color="grey", linestyle=":", linewidth=1, label="doing nothing")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("million tokens")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
    target, aside = run / "curves.png", run / ".curves.part.png"
    figure.savefig(aside, dpi=130)
    pyplot.close(figure)
    return aside.replace(target)
