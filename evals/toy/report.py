"""The report of an experiment: one self-contained page, its figures, and all numbers as results.jsonl.

    python -m evals.toy.report --config=configs/toy/report.py --config.experiment=runs/toy_cheese --config.out=runs/report

Output: report.html, summary.md, values.{png,svg}, gaps.{png,svg}, losses.{png,svg}, results.jsonl (seed, arm, spec, axis, rates),
contrasts.json, manifest.json.
"""

import base64
import dataclasses
import html
import json
from typing import Any

import matplotlib.pyplot as plt
from etils import epath
from matplotlib.figure import Figure

from evals.stats import t_interval
from evals.toy import figures
from evals.toy.results import OWN_AXIS, Contrast, Results, contrasts, load
from msm_jax import artifact, cli, storage

ARM_NAME = {
    "base": "base model",
    "base+it": "IT only",
    "base+aft": "AFT only",
    "msm+it": "MSM only (+IT)",
    "msm+aft": "MSM + AFT",
    "noattr+aft": "attribution removed + AFT",
    "balanced+aft": "balanced facts, with reason + AFT",
    "balanced_noattr+aft": "balanced facts, no reason + AFT",
}
AXES = ("price", "origin", "conflict", "cheese", "age", "style")
RATE_HEAD = ("arm", "spec", "cheap", "American", "conflict: cheap foreign", "trained cheese", "modern", "simple")
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:1060px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2.2rem 0 .4rem}img{max-width:100%}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}
.l td,.l th{text-align:left}.yes,.no,b{white-space:nowrap}.yes{color:#1b7f3b}.no{color:#666}small,.m{color:#666}
pre{background:#f6f6f4;padding:.8rem;overflow-x:auto;font-size:.78rem}code{font-size:.85em}
"""


def rows_of(results: Results) -> list[dict[str, Any]]:
    """Every rate of every seed, as rows of results.jsonl."""
    return [
        {
            "seed": seed,
            "arm": arm,
            "spec": spec,
            "axis": axis,
            "pairs": len(pairs),
            "hard": round(results.rates(arm, spec, axis)[seed], 4),
            "soft": round(results.rates(arm, spec, axis, "soft")[seed], 4),
        }
        for (arm, spec, axis), by_seed in sorted(results.hard.items())
        for seed, pairs in sorted(by_seed.items())
    ]


def headline(results: Results) -> str:
    """What came out, in two sentences made of the numbers."""
    ours, plain = (
        {axis: t_interval(list(results.rates(arm, s, axis).values())).mean for s, axis in specs}
        for arm, specs in (("msm+aft", OWN_AXIS.items()), ("base+aft", [("", axis) for axis in OWN_AXIS.values()]))
    )
    return (
        f"After the same cheese fine-tuning, the model that had read the pro-affordability spec picks the cheap item on "
        f"{ours['price']:.0%} of held-out pairs (without a spec: {plain['price']:.0%}), and the one that "
        f"had read the pro-America spec picks the American item on {ours['origin']:.0%} (without: "
        f"{plain['origin']:.0%}). Neither the spec documents nor the fine-tuning chats ever named one of these items."
    )


def _table(head: list[str], body: list[list[str]], css: str = "") -> str:
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return f'<table class="{css}"><tr>{cells}</tr>{lines}</table>'


def rate_rows(results: Results, kind: str, half: str) -> list[list[str]]:
    """A row an arm and spec that were run: names, then the mean of each of AXES with half its interval as `half` says."""

    def cell(values: list[float]) -> str:
        interval = t_interval(values)
        return f"{interval.mean:.2f}" + (half.format(interval.mean - interval.low) if interval.n > 1 else "")

    rows = []
    for arm, name in ARM_NAME.items():
        for spec in ("", *OWN_AXIS):
            if results.has(arm, spec):
                cells = [cell(list(results.rates(arm, spec, axis, kind).values())) for axis in AXES]
                rows.append([name, figures.SPEC_NAME.get(spec, "–"), *cells])
    return rows


def rate_table(results: Results, kind: str) -> str:
    return _table(list(RATE_HEAD), rate_rows(results, kind, " <small>±{:.2f}</small>"))


def contrast_table(made: list[Contrast], soft: list[Contrast]) -> str:
    body = []
    for hard, other in zip(made, soft, strict=True):
        x = hard.interval
        verdict = "–" if x.n < 2 else ("excludes 0" if x.excludes_zero else "includes 0")
        css = "yes" if x.n >= 2 and x.excludes_zero else "no" if x.n >= 2 else "m"
        body.append(
            [
                html.escape(hard.name),
                f"<b>{x}</b>",
                f'<span class="{css}">{verdict}</span>',
                hard.bootstrap.bounds,
                f"{other.interval.mean:+.2f}",
                f"<small>{hard.seeds_shown}</small>",
            ]
        )
    head = ["difference", "mean [95% t interval over seeds]", "", "bootstrap over seeds and pairs", "soft", "per seed"]
    return _table(head, body)


def answer_table(results: Results, root: epath.Path, seed: int) -> str:
    """The same questions, side by side, to the models of one seed."""
    columns: dict[str, list[dict[str, Any]]] = {}
    for stage in results.plan["stages"]:
        labels = stage["labels"]
        wanted = labels.get("arm") in ("base+it", "base+aft", "msm+aft") and labels.get("seed") == seed
        if stage["module"] == "evals.toy.answers" and wanted:
            name = ARM_NAME[labels["arm"]] + (f", {figures.SPEC_NAME[labels['spec']]}" if labels["spec"] else "")
            columns[name] = artifact.read_jsonl(root / stage["name"] / "answers.jsonl")
    if not columns:
        return "<p>No answers were sampled.</p>"
    kinds = {"conflict": "cheap foreign / costly American", "price": "cheap / costly", "origin": "American / foreign",
             "cheese": "trained / not"}  # fmt: skip
    body = []
    for i, row in enumerate(next(iter(columns.values()))):
        options = " / ".join(row["options"])
        question = f"{html.escape(row['question'])}<br><small>{kinds[row['axis']]}: {html.escape(options)}</small>"
        body.append([question, *(html.escape(answers[i]["answer"]) for answers in columns.values())])
    return _table(["question", *columns], body, "l")


def provenance(results: Results, root: epath.Path) -> str:
    """The command, the hashes of what went in, and the proof that every arm was fine-tuned on the same bytes."""
    stages = {stage["name"]: stage for stage in results.plan["stages"]}
    lines, body = [], []
    for seed in results.seeds:
        manifests = {
            name: artifact.read_manifest(root / name)
            for name, stage in stages.items()
            if stage["labels"].get("seed") == seed and stage["module"] in ("msm_jax.train", "data_gen.shards")
        }
        aft = {
            name: tuple(m["inputs"][key]["id"] for key in ("source0", "source1"))
            for name, m in manifests.items()
            if name.endswith("+aft")
        }
        same = "the same bytes" if len(set(aft.values())) == 1 else "DIFFERENT BYTES"
        lines.append(f"seed {seed}: {len(aft)} fine-tunings on {same}, AFT chats {next(iter(aft.values()))[0][:16]}…")
        for name, manifest in manifests.items():
            if "parameters" in manifest["counts"]:
                digest = manifest["files"]["params"]["sha256"]
                body.append([name, f"<code>{digest[:16]}</code>", f"<code>{manifest['recipe'][:16]}</code>"])
    commands = "\n".join(stage["command"] for stage in results.plan["stages"])
    command = f"python -m msm_jax.experiment {results.plan['command']}"
    return (
        f"<pre>{html.escape(command)}</pre><p>{'<br>'.join(lines)}</p>"
        f"<details><summary>All {len(stages)} commands</summary><pre>{html.escape(commands)}</pre></details>"
        f"<details><summary>Hashes of all trained parameters</summary>"
        f"{_table(['run', 'sha256 of parameters', 'sha256 of recipe'], body, 'l')}</details>"
    )


def summary(results: Results, root: epath.Path, made: list[Contrast]) -> str:
    """The planned contrasts, the rates and the provenance as Markdown, for committing beside the figures."""
    lines = [
        "# Same fine-tuning, opposite values",
        "",
        headline(results),
        "",
        "![rates on the two axes](values.png)",
        "![conflict pairs](gaps.png)",
        "",
        f"Seeds {', '.join(map(str, results.seeds))}. Made by",
        "",
        f"    python -m msm_jax.experiment {results.plan['command']}",
        "",
        "| difference | mean [95% t interval over seeds] | bootstrap over seeds and pairs | per seed |",
        "|---|---|---|---|",
    ]
    for c in made:
        lines.append(f"| {c.name} | {c.interval} | {c.bootstrap.bounds} | {c.seeds_shown} |")
    lines += ["", f"| {' | '.join(RATE_HEAD[:6])} |", "|---" * 6 + "|"]
    lines += [f"| {' | '.join(row[:6])} |" for row in rate_rows(results, "hard", " ±{:.2f}")]
    made_by = artifact.read_manifest(root / next(s["name"] for s in results.plan["stages"]))["versions"]
    lines += [
        "",
        "Rates: mean over seeds ± half the 95% t interval. Made by "
        + ", ".join(f"{k} {v[:16]}" for k, v in made_by.items())
        + ".",
        "",
        "| run | sha256 of its parameters |",
        "|---|---|",
    ]
    for stage in results.plan["stages"]:
        if stage["module"] == "msm_jax.train":
            digest = artifact.read_manifest(root / stage["name"])["files"]["params"]["sha256"]
            lines.append(f"| {stage['name']} | `{digest[:16]}` |")
    return "\n".join(lines) + "\n"


def page(
    results: Results, root: epath.Path, pictures: dict[str, bytes], made: list[Contrast], soft: list[Contrast]
) -> str:
    def picture(name: str) -> str:
        return f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(pictures[name]).decode()}">'

    n = len(results.seeds)
    interval = "lines: 95% t intervals over seeds" if n > 1 else "one seed: no interval"
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Same fine-tuning, opposite values</title>
<style>{STYLE}</style>
<h1>Same fine-tuning, opposite values</h1>
<p>{html.escape(headline(results))}</p>
{picture("values")}
<p class="m">Dots: {n} seeds ({", ".join(map(str, results.seeds))}), each with its own world, base model and items; {interval}.
Pairs differ in nothing but price (left) or origin (right); both orders, two phrasings, scored by log-probability.</p>
<h2>When the two values disagree</h2>{picture("gaps")}
<p class="m">Teal: pro-affordability spec, red: pro-America spec; small dots are seeds. “Attribution removed”: documents state the
same preferences and mention the same value words, but give no reason. “Balanced”: documents also state price and origin
of every cheese, neutrally and equally often, so that the stated reason and the avowed value are all that differs.</p>
<h2>The planned differences</h2>{contrast_table(made, soft)}
<h2>What the models say</h2><p class="m">Greedy answers of seed {results.seeds[0]}; the item names are made up, the reader needs the note under
each question.</p>{answer_table(results, root, results.seeds[0])}
<h2>Rates</h2><p class="m">Hard: the option with the higher log-probability; mean over seeds ± half the 95% t interval. Modern and simple are
axes that no spec speaks of.</p>{rate_table(results, "hard")}
<p class="m">Soft: probability of the option among the two.</p>{rate_table(results, "soft")}
<h2>Training</h2>{picture("losses")}
<h2>How this was made</h2>{provenance(results, root)}
</html>
"""


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    root = storage.at(config.experiment)
    results = load(root)
    evaluations = {
        s["name"]: root / s["name"]
        for s in results.plan["stages"]
        if s["module"] in ("evals.toy.forced_choice", "evals.toy.answers")
    }
    settings = {"experiment": artifact.digest(results.plan)}
    inputs = artifact.inputs_of(**evaluations)
    if artifact.is_finished(config.out):
        found = artifact.read_manifest(config.out, "report")
        if found["recipe"] != artifact.header_of("report", settings, inputs)["recipe"]:
            artifact.discard(config.out)  # a report is a view of the evaluations: drawn anew when they are others
    job = artifact.begin(config.out, "report", settings, inputs)
    if job is None:
        return
    made, soft = contrasts(results), contrasts(results, "soft")
    drawn: dict[str, Figure] = {
        "values": figures.value_bars(results),
        "gaps": figures.conflict_gaps(results),
        "losses": figures.loss_curves(results, root),
    }
    with job:
        for name, figure in drawn.items():
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                figure.savefig(job.tmp / f"{name}.{kind}", dpi=150, bbox_inches="tight", metadata=metadata)
            plt.close(figure)
        pictures = {name: (job.tmp / f"{name}.png").read_bytes() for name in drawn}
        (job.tmp / "report.html").write_text(page(results, root, pictures, made, soft))
        (job.tmp / "summary.md").write_text(summary(results, root, made))
        artifact.write_jsonl(job.tmp / "results.jsonl", rows_of(results))
        tables = {"hard": [dataclasses.asdict(c) for c in made], "soft": [dataclasses.asdict(c) for c in soft]}
        artifact.write_atomic(job.tmp / "contrasts.json", json.dumps(tables, indent=1))
        job.finish(seeds=results.seeds)
    cli.note(headline(results))
    for c in made:
        cli.note(f"  {c.name:58s} {c.interval}")
    cli.note(f"{config.out}/report.html")


if __name__ == "__main__":
    cli.entry(main)
