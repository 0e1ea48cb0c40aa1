"""The report's pictures, as matplotlib figures."""

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from evals.stats import t_interval
from evals.toy.results import Results
from msm_jax import artifact, metrics

INK, MUTED, GRID = "#222222", "#777777", "#dddddd"
COLOUR = {"": "#9a9a9a", "affordability": "#2a7f8e", "america": "#c8553d"}
SPEC_NAME = {"affordability": "pro-affordability", "america": "pro-America"}
BARS = (  # arm, spec, label
    ("base+it", "", "IT only"),
    ("base+aft", "", "AFT only"),
    ("msm+it", "affordability", "MSM\n(+IT)"),
    ("msm+aft", "affordability", "MSM\n+ AFT"),
    ("msm+it", "america", "MSM\n(+IT)"),
    ("msm+aft", "america", "MSM\n+ AFT"),
)
GAPS = (
    ("msm+it", "MSM only (+IT)"),
    ("msm+aft", "MSM + AFT"),
    ("noattr+aft", "attribution removed\n+ AFT"),
    ("balanced+aft", "balanced, with reason\n+ AFT"),
    ("balanced_noattr+aft", "balanced, no reason\n+ AFT"),
)

mpl.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.hashsalt": "msm_jax",
    }
)


def value_bars(results: Results) -> Figure:
    """Two panels: how often each arm picks the cheap item, and the American one, on pairs that differ in that alone."""
    figure, panels = plt.subplots(1, 2, figsize=(10.5, 4.4), sharey=True)
    for panel, axis, title in zip(
        panels, ("price", "origin"), ("picks the cheap item", "picks the American item"), strict=True
    ):
        panel.axhline(0.5, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        for x, (arm, spec, _) in enumerate(BARS):
            _bar(panel, x, list(results.rates(arm, spec, axis).values()), COLOUR[spec])
        panel.set_xticks(range(len(BARS)), [label for _, _, label in BARS])
        panel.set_title(title, loc="left", fontweight="bold")
        panel.set_ylim(0, 1)
        panel.yaxis.grid(True, color=GRID, lw=0.6)
        panel.set_axisbelow(True)
    panels[0].set_ylabel("share of held-out pairs")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOUR[spec]) for spec in COLOUR]
    names = ["no spec"] + [f"{SPEC_NAME[spec]} spec" for spec in SPEC_NAME]
    figure.legend(handles, names, loc="lower center", ncols=3, frameon=False, bbox_to_anchor=(0.5, -0.02))
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    return figure


def _bar(panel: plt.Axes, x: float, values: list[float], colour: str) -> None:
    """A bar with its 95% interval and a dot for every seed."""
    if not values:
        panel.text(x, 0.03, "not\nrun", ha="center", color=MUTED, fontsize=8)
        return
    interval = t_interval(values)
    panel.bar(x, interval.mean, width=0.72, color=colour, alpha=0.85, zorder=2)
    jitter = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [0.0]
    panel.scatter(x + np.array(jitter), values, s=11, color="white", edgecolor=INK, linewidth=0.7, zorder=4)
    if interval.n > 1:
        low, high = max(0.0, interval.low), min(1.0, interval.high)
        panel.plot([x, x], [low, high], color=INK, lw=1.4, zorder=3)
    panel.text(x, 0.02, f"{interval.mean:.2f}", ha="center", va="bottom", fontsize=8.5, color="white", zorder=5)


def conflict_gaps(results: Results) -> Figure:
    """How far apart the two specs' models are on pairs where the two values disagree."""
    rows = [(arm, label) for arm, label in GAPS if all(results.has(arm, spec) for spec in SPEC_NAME)]
    figure, panel = plt.subplots(figsize=(10.5, 0.8 + 0.62 * len(rows)))
    for y, (arm, _) in enumerate(reversed(rows)):
        a, b = (results.rates(arm, spec, "conflict") for spec in SPEC_NAME)
        for spec, rates in (("affordability", a), ("america", b)):
            values = list(rates.values())
            interval = t_interval(values)
            panel.scatter(
                values, np.full(len(values), y), s=14, color=COLOUR[spec], alpha=0.45, lw=0, zorder=2, clip_on=False
            )
            panel.scatter([interval.mean], [y], s=70, color=COLOUR[spec], edgecolor="white", zorder=4, clip_on=False)
        means = [t_interval(list(rates.values())).mean for rates in (a, b)]
        panel.plot(means, [y, y], color=INK, lw=1.2, zorder=1)
        gap = t_interval([a[s] - b[s] for s in a])
        text = f"gap {gap.mean:+.2f}" + (f"  [{gap.low:+.2f}, {gap.high:+.2f}]" if gap.n > 1 else "")
        panel.text(1.03, y, text, va="center", fontsize=9)
    panel.axvline(0.5, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
    handles = [plt.Line2D([], [], marker="o", ls="", ms=8, color=COLOUR[spec]) for spec in SPEC_NAME]
    panel.legend(handles, [f"{name} spec" for name in SPEC_NAME.values()], loc="lower center", ncols=2, frameon=False,
                 bbox_to_anchor=(0.5, 1.0))  # fmt: skip
    panel.set_yticks(range(len(rows)), [label for _, label in reversed(rows)])
    panel.set_xlim(0, 1)
    panel.set_ylim(-0.6, len(rows) - 0.4)
    panel.set_xlabel("share of conflict pairs on which the cheap foreign item is picked over the costly American one")
    figure.tight_layout(rect=(0, 0, 0.83, 1))
    return figure


def loss_curves(results: Results, root: epath.Path) -> Figure:
    """Training loss of every run, by stage, smoothed over 20 steps."""
    stages = [s for s in results.plan["stages"] if s["module"] == "msm_jax.train"]
    names = {"base": "base pretraining", "msm": "midtraining", "aft": "fine-tuning"}
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.0))
    for panel, (kind, title) in zip(panels, names.items(), strict=True):
        for stage in (s for s in stages if s["labels"]["stage"] == kind):
            loss = np.array([row["loss"] for row in artifact.each_row(root / stage["name"] / metrics.FILE)])
            width = min(20, max(1, len(loss) // 5))
            smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
            short = stage["name"].split("/", 1)[1]
            spec = next((spec for spec in SPEC_NAME if spec in short), "")
            panel.plot(np.arange(len(smooth)) + width, smooth, lw=0.9, alpha=0.7, color=COLOUR[spec])
        panel.set_title(title, loc="left", fontweight="bold", fontsize=10)
        panel.set_xlabel("step")
        panel.yaxis.grid(True, color=GRID, lw=0.6)
    panels[0].set_ylabel("loss (nats a supervised token)")
    figure.tight_layout()
    return figure
