"""The pictures of sweeps and reports, as matplotlib figures.

Arms are told apart by colour and by mark: the colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

import matplotlib as mpl

mpl.use("Agg")
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from evals import stats
from evals.reporting.summary import Arm, interval_of

INK, MUTED, GRID = "#222222", "#777777", "#dddddd"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8a8a8a")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_CELLS = 60  # that a figure of cells shows
Entry = Mapping[str, Any]

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "msm_jax",
    "text.parse_math": False,  # a $ in a name is a dollar
}


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """name → (colour, mark), by its place."""
    return {name: (COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]) for i, name in enumerate(names)}


def save(figure: Figure, stem: Path) -> None:
    """STEM.png and STEM.svg, the same bytes for the same picture."""
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        figure.savefig(f"{stem}.{kind}", dpi=130, bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _unit(panel: plt.Axes, values: Sequence[float]) -> None:
    """Rates are shown from 0 to 1, other numbers where they are."""
    if not values or (min(values) >= 0 and max(values) <= 1):
        panel.set_ylim(-0.02, 1.02)


def curves(made: Sequence[Entry]) -> Figure:
    """A panel a task: its headline measure against the step, a line an arm. Of one seed the band is its 95%
    interval, of several ±1 SEM over seeds, whose own lines are thin. Models without steps are dashed lines across."""
    made = [entry for entry in made if entry["headline"] and entry["mean"] is not None]
    tasks = list(dict.fromkeys(entry["task"] for entry in made))
    style = looks(list(dict.fromkeys(entry["arm"] for entry in made)))
    with mpl.rc_context(STYLE):
        columns = min(2, max(1, len(tasks)))
        lines = max(1, -(-len(tasks) // columns))
        figure, panels = plt.subplots(lines, columns, figsize=(5.4 * columns, 3.5 * lines), squeeze=False)
        for panel in panels.flat[len(tasks) :]:
            panel.set_axis_off()
        if not tasks:
            panels.flat[0].text(0.5, 0.5, "nothing to draw", ha="center", color=MUTED)
        for panel, task in zip(panels.flat, tasks, strict=False):
            ours = [entry for entry in made if entry["task"] == task]
            for arm, (colour, mark) in style.items():
                _curve(panel, arm, [entry for entry in ours if entry["arm"] == arm], colour, mark)
            panel.set_title(_short(ours[0]["title"], 46), loc="left", fontweight="bold", fontsize=10)
            panel.set_ylabel(_short(ours[0]["measure"]))
            panel.set_xlabel("step" if any(entry["checkpoint"] is not None for entry in ours) else "")
            panel.yaxis.grid(True, color=GRID, lw=0.6)
            _unit(panel, [entry["mean"] for entry in ours])
        if tasks:
            handles = [plt.Line2D([], [], color=c, marker=m, ms=6, label=_short(arm)) for arm, (c, m) in style.items()]
            figure.legend(handles=handles, loc="upper center", ncols=4, frameon=False, bbox_to_anchor=(0.5, 0.0))
        figure.tight_layout()
    return figure


def _curve(panel: plt.Axes, arm: str, made: Sequence[Entry], colour: str, mark: str) -> None:
    for entry in (entry for entry in made if entry["checkpoint"] is None):
        panel.axhline(entry["mean"], color=colour, lw=1.2, ls=(0, (4, 3)))
    by_step: dict[int, list[Entry]] = {}
    for entry in made:
        if entry["checkpoint"] is not None:
            by_step.setdefault(entry["checkpoint"], []).append(entry)
    if not by_step:
        return
    steps = sorted(by_step)
    shown = []
    for step in steps:
        entries = by_step[step]
        shown.append(
            interval_of(entries[0])
            if len(entries) == 1
            else stats.standard_error([float(entry["mean"]) for entry in entries])
        )
    panel.plot(steps, [i.mean for i in shown], color=colour, marker=mark, ms=5, lw=1.6, zorder=3)
    panel.fill_between(steps, [i.low for i in shown], [i.high for i in shown], color=colour, alpha=0.15, lw=0, zorder=1)
    seeds = sorted({entry["seed"] for entry in made})
    if len(seeds) > 1:
        for seed in seeds:
            line = [(s, e["mean"]) for s in steps for e in by_step[s] if e["seed"] == seed]
            panel.plot(*zip(*line, strict=True), color=colour, lw=0.7, alpha=0.5, zorder=2)


def bars(title: str, measure: str, arms: Sequence[Arm], style: Mapping[str, tuple[str, str]]) -> Figure:
    """A bar an arm, its seeds as dots, the whisker ±1 SEM over seeds; of one seed its 95% interval, dotted."""
    with mpl.rc_context(STYLE):
        figure, panel = plt.subplots(figsize=(max(3.6, 1.1 + 1.05 * len(arms)), 3.6))
        for x, arm in enumerate(arms):
            colour = style[arm.name][0]
            panel.bar(x, arm.interval.mean, width=0.7, color=colour, alpha=0.8, zorder=2)
            many = len(arm.per_seed) > 1
            shown = arm.error if many else arm.interval
            panel.plot([x, x], [shown.low, shown.high], color=INK, lw=1.5, ls="-" if many else ":", zorder=3)
            if many:
                jitter = np.linspace(-0.16, 0.16, len(arm.per_seed))
                values = list(arm.per_seed.values())
                panel.scatter(x + jitter, values, s=14, color="white", edgecolor=INK, linewidth=0.8, zorder=4)
            panel.annotate(
                f"{arm.interval.mean:.2f}", (x, 0), (0, 4), textcoords="offset points", ha="center", fontsize=8.5,
                color="white", zorder=5, bbox={"boxstyle": "round,pad=0.15", "fc": INK, "ec": "none", "alpha": 0.65},
            )  # fmt: skip
        panel.set_xticks(range(len(arms)), [_short(arm.name, 20) for arm in arms], rotation=20, ha="right")
        panel.set_title(_short(title, 48), loc="left", fontweight="bold", fontsize=10)
        panel.set_ylabel(_short(measure))
        panel.yaxis.grid(True, color=GRID, lw=0.6)
        panel.set_axisbelow(True)
        _unit(panel, [v for arm in arms for v in arm.per_seed.values()])
        figure.tight_layout()
    return figure


def cells(title: str, measure: str, made: Sequence[Entry], style: Mapping[str, tuple[str, str]]) -> Figure:
    """A line a cell, a mark an arm with its interval; `made` has one entry an arm."""
    names = list(dict.fromkeys(cell for entry in made for cell in entry["cells"]))[:MOST_CELLS]
    with mpl.rc_context(STYLE):
        figure, panel = plt.subplots(figsize=(9.2, 0.9 + len(names) * max(0.24, 0.13 * len(made))))
        for i, entry in enumerate(made):
            colour, mark = style[entry["arm"]]
            shift = (i - (len(made) - 1) / 2) * 0.7 / max(1, len(made))
            for y, cell in enumerate(names):
                found = entry["cells"].get(cell)
                if found is None or found["mean"] is None:
                    continue
                at = y + shift
                if found["low"] is not None:
                    panel.plot([found["low"], found["high"]], [at, at], color=colour, lw=1.3, alpha=0.7, zorder=2)
                panel.plot([found["mean"]], [at], color=colour, marker=mark, ms=5, zorder=3)
        for y in range(1, len(names)):
            panel.axhline(y - 0.5, color=GRID, lw=0.5, zorder=0)
        panel.set_yticks(range(len(names)), [_short(name, 44) for name in names], fontsize=8.5)
        panel.set_ylim(len(names) - 0.4, -0.6)
        values = [c["mean"] for entry in made for c in entry["cells"].values() if c["mean"] is not None]
        if not values or (min(values) >= 0 and max(values) <= 1):
            panel.set_xlim(-0.02, 1.02)
        panel.set_xlabel(_short(measure))
        panel.xaxis.grid(True, color=GRID, lw=0.6)
        panel.set_title(_short(title, 60), loc="left", fontweight="bold", fontsize=10)
        handles = [
            plt.Line2D([], [], color=style[e["arm"]][0], marker=style[e["arm"]][1], ls="", ms=6, label=_short(e["arm"]))
            for e in made
        ]
        figure.legend(handles=handles, loc="upper center", ncols=4, frameon=False, bbox_to_anchor=(0.5, 0.0))
        figure.tight_layout()
    return figure
