"""The page says what the rows say, shows transcripts as text and nothing else, and names what it leaves out."""

import base64
import hashlib
import html.parser
import json
import re
import urllib.parse

import numpy as np
import pytest

from evals import report, sweep
from evals.reporting import contrasts, figures, page, summary, transcripts
from evals.sweeping import targets
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.evals.sweeping import make_run

CONFIG = "--config=configs/evals/report.py"
ABOUT = {"t": {"title": "Does it", "headline": "acted", "better": "lower"}}


def row(item, value, arm="a", seed=0, cell="c", epoch=1, missing="", error="", **more):
    values = {} if error else {"acted": value, "tool_use": 1.0}
    return {
        "task": "t", "arm": arm, "seed": seed, "model": "m", "checkpoint": None, "cell": cell, "item": item,
        "split": "", "sample": item, "epoch": epoch, "measures": values, "missing": {"acted": missing} if missing else {},
        "decisive": "", "judge": "j", "error": error, "log": "x.eval",
    } | more  # fmt: skip


# -- tables ----------------------------------------------------------------------------------------------------------


def test_an_entry_counts_cells_the_same_and_says_what_is_missing():
    rows = [row(f"i{n}", 1.0, cell="big") for n in range(30)] + [row(f"j{n}", 0.0, cell="small") for n in range(10)]
    rows += [row("k", None, cell="small", missing="refused"), row("l", None, cell="small", error="broke")]
    found = {entry["measure"]: entry for entry in summary.entries(rows, ABOUT)}
    acted = found["acted"]
    assert (acted["mean"], acted["n"], acted["items"], acted["samples"]) == (0.5, 40, 40, 42)
    assert acted["missing"] == {"error": 1, "refused": 1}
    assert acted["cells"]["small"]["n"] == 10
    assert (acted["headline"], acted["better"], acted["title"]) == (True, "lower", "Does it")
    assert list(found) == ["acted", "tool_use"]
    assert found["tool_use"]["headline"] is False


def test_an_evaluation_without_any_value_has_an_entry_all_the_same():
    (entry,) = summary.entries([row("i", None, error="broke")], ABOUT)
    assert (entry["mean"], entry["low"], entry["n"], entry["missing"]) == (None, None, 0, {"error": 1})
    json.dumps(entry, allow_nan=False)


def test_an_arm_of_seeds_is_judged_over_seeds():
    rows = [row(f"i{n}", float(n < ones), seed=seed) for seed, ones in ((20, 5), (21, 7), (22, 9)) for n in range(10)]
    made = [entry for entry in summary.entries(rows, ABOUT) if entry["headline"]]
    arm = summary.arm_of("a", made)
    assert (arm.over, arm.per_seed) == ("seeds", {20: 0.5, 21: 0.7, 22: 0.9})
    assert arm.interval.low < arm.error.low < arm.interval.mean < arm.error.high < arm.interval.high
    one = summary.arm_of("a", made[:1])
    assert one.over == "items"
    assert one.interval.low > 0.2


def test_seeds_that_agree_by_chance_are_not_certain():
    rows = [row(f"i{n}", 1.0, seed=seed) for seed in (1, 2) for n in range(10)]
    arm = summary.arm_of("a", [e for e in summary.entries(rows, ABOUT) if e["headline"]])
    assert (arm.over, arm.interval.mean) == ("items", 1.0)
    assert arm.interval.low < 0.8


def test_the_last_checkpoint_stands_for_a_run():
    rows = [row("i", 1.0, checkpoint=step) for step in (5, 10)] + [row("i", 1.0, arm="api")]
    assert summary.last_checkpoints(rows) == {("a", 0): 10, ("api", 0): None}
    assert summary.last_checkpoints(rows, 5) == {("a", 0): 5, ("api", 0): None}


def test_contrasts_are_paired_and_adjusted_together():
    rng = np.random.default_rng(0)
    rows = [
        row(f"i{n}", float(rng.random() < p), arm=arm, seed=seed)
        for arm, p in (("base", 0.2), ("good", 0.8), ("same", 0.2))
        for seed in (1, 2, 3)
        for n in range(60)
    ]
    found = contrasts.contrasts(summary.grouped(rows), {"t": "acted"}, ())
    assert [(c.a, c.b, c.paired.over, c.paired.items) for c in found] == [
        ("good", "base", "seeds", 60), ("same", "base", "seeds", 60),
    ]  # fmt: skip
    good, same = found
    assert good.holm == pytest.approx(2 * good.paired.p)
    assert good.holm < 0.05
    assert same.paired.interval.low < 0 < same.paired.interval.high
    (chosen,) = contrasts.contrasts(summary.grouped(rows), {"t": "acted"}, [("good", "same")])
    assert chosen.holm == chosen.paired.p
    budget = contrasts.budgets(summary.grouped(rows), {"t": "acted"})
    assert [b.arm for b in budget] == ["base", "good", "same"]
    assert budget[0].needed[0.02] > budget[0].needed[0.2]


# -- transcripts -----------------------------------------------------------------------------------------------------


def test_transcripts_are_drawn_from_every_outcome_and_as_many_cells_as_there_are():
    rows = [row(f"{c}{n}", float(n % 2), cell=c) for c in "vwxyz" for n in range(20)]
    rows += [row("m", None, missing="refused"), row("f", None, error="broke")]
    chosen = transcripts.choose(rows, {"t": "acted"}, 5, seed=0)
    outcomes = [transcripts.outcome(r, "acted") for r in chosen]
    assert {o: outcomes.count(o) for o in outcomes} == {"acted 0": 5, "acted 1": 5, "failed": 1, "missing: refused": 1}
    assert {r["cell"] for r in chosen if r["measures"].get("acted") == 1} == set("vwxyz")
    assert chosen == transcripts.choose(rows[::-1], {"t": "acted"}, 5, seed=0)
    assert chosen != transcripts.choose(rows, {"t": "acted"}, 5, seed=1)


def test_the_decisive_passage_is_marked_and_never_cut_away():
    text = "a" * 5000 + "HERE" + "b" * 5000
    before, marked, after = transcripts.parts(text, "HERE", 400)
    assert marked == ("HERE", True)
    assert before[0].endswith("aaa")
    assert before[0].startswith("…")
    assert len(before[0]) + len(after[0]) < 600
    assert transcripts.parts("say HERE", "HERE", 400) == [("say ", False), ("HERE", True)]
    assert transcripts.parts("nothing", "HERE", 400) == [("nothing", False)]
    ((cut, marked),) = transcripts.parts(text, "", 400)
    assert "characters left out" in cut
    assert not marked


def test_control_characters_are_made_visible():
    assert transcripts.parts("a\u202eb\x1b[0m", "", 100) == [("a\\u202eb\\x1b[0m", False)]


def test_the_page_does_not_grow_without_bound():
    one = transcripts.Transcript("t", "a", 0, None, "c", "", "s", 1, "o", "", "x" * 1000, [])
    assert len(transcripts.within([one] * 100, 10_000)) == 6


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of a run with two checkpoints, of a model, and of one that writes HTML; a judge that often fails."""
    root = tmp_path_factory.mktemp("swept")
    run, real = make_run(root / "msm", [3, 9]), targets.inspect_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            targets, "inspect_model", lambda t, a: ("scripted/step", {"step": t.step}) if t.step else real(t, a)
        )
        patch.setattr(sweep.figures, "save", lambda f, stem: [stem.with_suffix(k).touch() for k in (".png", ".svg")])
        sweep.main(
            ["", "--config=configs/evals/sweep.py", f"--config.out={root / 'sweep'}", f"--config.run={run}",
             "--config.models=('evil=scripted/evil',)", "--config.judge=scripted/judge-that-fails",
             "--config.tasks=('plain_choice:epochs=1', 'judged_choice:cells=a')"]
        )  # fmt: skip
    return root / "sweep"


class Dom(html.parser.HTMLParser):
    """Tags with their attributes, and the text inside <mark>, <script> and <style>."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.texts = [], "", {"mark": [], "script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in self.texts:
            self.texts[self.inside].append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page(swept, tmp_path, capfd):
    out = tmp_path / "page"
    flags = [CONFIG, f"--config.sweeps=({str(swept)!r},)", f"--config.out={out}", "--config.transcripts=2"]
    report.main(["", *flags])
    assert capfd.readouterr().out == ""
    text = (out / "report.html").read_text()
    dom = Dom(text)

    # Self-contained, and nothing runs but the one script that the policy names.
    policy = next(a["content"] for a in dom.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = dom.texts["script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert dom.all("script") == [{}]
    assert not any(name.startswith("on") for _, attrs in dom.tags for name in attrs)
    assert all(a["src"].startswith("data:image/png") for a in dom.all("img"))
    assert "&lt;script&gt;alert(&#39;transcript&#39;)&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert "\\u202e" in text

    shown = [a for a in dom.all("details") if a.get("class") == "transcript"]
    assert {a["data-arm"] for a in shown} == {"msm", "evil"}
    assert {"yes 1", "yes 0", "missing: refused"} <= {a["data-outcome"] for a in shown}
    assert "yes" in dom.texts["mark"]
    links = [a["href"] for a in dom.all("a") if "samples/sample" in a["href"]]
    assert len(links) == len(shown)
    log = re.match(r"(bundle0)/index.html#/logs/(.*\.eval)/samples/sample/", links[0])
    assert (out / log[1] / "logs" / urllib.parse.unquote(log[2])).is_file()
    assert (out / "bundle0" / "index.html").is_file()

    numbers = json.loads((out / "summary.json").read_text())
    plain = next(task for task in numbers["tasks"] if task["label"] == "plain_choice:epochs=1")
    lines = {line["arm"]: line for line in plain["lines"]}
    assert lines["msm"]["checkpoint"] == "step 9"
    assert lines["evil"]["interval"]["mean"] == 1.0
    assert lines["msm"]["beside"] == {"parsed": 1.0}
    assert {(c["a"], c["b"], c["task"]) for c in numbers["contrasts"]} >= {("evil", "msm", "plain_choice:epochs=1")}
    judged = next(judge for judge in numbers["judges"] if judge["judge"] == "judge-that-fails")
    assert judged["samples"] == judged["verdicts"] + sum(judged["missing"].values()) == 30
    rows = artifact.read_jsonl(out / "results.jsonl")
    assert len(rows) == 3 * (20 + 10)
    assert artifact.read_manifest(out, "evaluation_report")["counts"]["samples"] == len(rows)

    report.main(["", *flags])
    assert "already made, skipped" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "config.sweeps: none given"),
        (("--config.sweeps=('nowhere',)",), "nowhere: no such directory; make this sweep first"),
        (("--config.sweeps=('S', 'S')",), "msm@0 on .* is in .* too"),
        (("--config.sweeps=('S',)", "--config.compare=(('msm', 'unheard'),)"), "no arm unheard; there are msm, evil"),
        (("--config.sweeps=('S',)", "--config.compare=(('msm',),)"), "must be pairs of arms"),
        (("--config.sweeps=('S',)", "--config.transcripts=-1"), "must not be negative"),
    ],
)
def test_bad_input_is_one_line(swept, tmp_path, flags, message):
    flags = [flag.replace("'S'", repr(str(swept))) for flag in flags]
    with pytest.raises(UserError, match=message) as caught:
        report.main(["", CONFIG, f"--config.out={tmp_path / 'page'}", *flags])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page").exists()


def test_numbers_are_written_so_that_they_can_be_read():
    assert [page.number(x) for x in (None, float("nan"), 0.5, 1234)] == ["–", "–", "0.50", "1,234"]
    assert [page.p_value(x) for x in (None, 1e-9, 0.0312, 1.0)] == ["–", "<0.0001", "0.031", "1"]
    assert page.signed(-0.0321) == "-0.032"


def test_arms_are_told_apart_by_colour_and_by_mark():
    assert len(set(figures.looks([f"arm {n}" for n in range(8)]).values())) == 8
