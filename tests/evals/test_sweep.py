"""Every model and task once: what is done is skipped, what failed is gone on with, what vanished is said."""

import json
import shutil

import pytest

from evals import sweep
from evals.sweeping import running, targets
from evals.sweeping import tasks as tasking
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.evals import sweeping
from tests.evals.sweeping import Scripted, make_run

CONFIG = "--config=configs/evals/sweep.py"
JUDGE = "--config.judge=scripted/judge"
BOTH = "--config.tasks=('plain_choice:cells=a,epochs=1', 'judged_choice:cells=a')"


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """Checkpoints are answered for by the scripted model."""
    real = targets.inspect_model

    def model(target, args):
        name, args = real(target, args)
        return ("scripted/step" if target.step is not None else name), args

    monkeypatch.setattr(targets, "inspect_model", model)
    Scripted.asked.clear()
    Scripted.broken = set()


@pytest.fixture
def undrawn(monkeypatch):
    """Curves take longer to draw than these sweeps take."""

    def save(figure, stem):
        for kind in ("png", "svg"):
            stem.with_suffix(f".{kind}").write_bytes(b"")

    monkeypatch.setattr(sweep.figures, "save", save)


def start(out, *flags):
    sweep.main(["", CONFIG, f"--config.out={out}", *flags])


def judged():
    return [question for question in Scripted.asked if "<answer>" in question]


def entries(out, **where):
    found = json.loads((out / "summary.json").read_text())["entries"]
    return [entry for entry in found if all(entry[key] == value for key, value in where.items())]


def test_a_run_and_a_model(tmp_path, capfd, undrawn):
    """Evaluated, skipped, and gone on with when a checkpoint is added: only what is new is asked."""
    run, out = make_run(tmp_path / "msm", [8]), tmp_path / "out"
    flags = (f"--config.run={run}", "--config.models=('base@3=scripted/4',)", BOTH, JUDGE)
    start(out, *flags, "--preview")
    told = capfd.readouterr().out
    assert "msm step 8\tjudged_choice:cells=a\t10 samples\tto do" in told
    assert "2 models, 2 tasks; to do: 40 samples, 20 of them judged" in told
    assert not out.exists()

    start(out, *flags)
    said = capfd.readouterr()
    assert said.out == ""
    assert "summary.json" in said.err
    rates = {
        (e["arm"], e["checkpoint"]): e["mean"]
        for e in entries(out, task="plain_choice:cells=a,epochs=1", measure="yes")
    }
    assert rates[("base", None)] < rates[("msm", 8)]
    assert entries(out, arm="base", headline=True)[0]["seed"] == 3
    before = judged()
    assert len(before) == len(set(before)), "a question was judged twice"
    assert artifact.read_manifest(out, "sweep")["inputs"] == {"msm@0": {"kind": "run", "id": "recipe of msm"}}
    assert (out / "curves.svg").is_file()

    Scripted.asked.clear()
    start(out, *flags)
    assert not Scripted.asked
    assert "already made, skipped" in capfd.readouterr().err
    make_run(run, [9])
    start(out, *flags)
    assert len(Scripted.asked) - len(judged()) == 20, "the new checkpoint alone is asked"
    assert not set(judged()) & set(before), "a question was judged twice"
    assert {e["checkpoint"] for e in entries(out, arm="msm")} == {8, 9}

    with pytest.raises(UserError, match="another sweep .judge 'scripted/judge' there, 'scripted/judge2' here"):
        start(out, *flags, "--config.judge=scripted/judge2")


def test_what_fails_is_told_and_mended_by_the_same_command(tmp_path, capfd, undrawn):
    out = tmp_path / "out"
    flags = ("--config.models=('scripted/4',)", BOTH, JUDGE)
    Scripted.broken = {"Item 3 of a"}
    with pytest.raises(
        UserError,
        match=r"4, plain_choice:cells=a,epochs=1: error: 1 samples failed.*the model broke.* and 1 more; mend it",
    ):
        start(out, *flags)
    assert not artifact.is_finished(out)
    assert len((out / "results.jsonl").read_text().splitlines()) == 20, "what there is can be read"
    found = json.loads((out / "summary.json").read_text())
    assert found["entries"][0]["missing"] == {"error": 1}
    assert len(found["counts"]["failed"]) == 2
    before = judged()

    Scripted.broken = set()
    Scripted.asked.clear()
    start(out, *flags)
    assert {question.split(":")[0] for question in Scripted.asked if "<answer>" not in question} == {"Item 3 of a"}
    assert not set(judged()) & set(before), "judged again"
    assert artifact.is_finished(out)


def test_failing_judges_change_no_verdict(tmp_path, capfd, undrawn):
    """The same answers, a judge of which two in three cannot be used: what is left agrees, the rest is counted."""
    flags = ("--config.models=('scripted/10',)", "--config.tasks=('judged_choice',)")
    start(tmp_path / "good", *flags, JUDGE)
    start(tmp_path / "bad", *flags, "--config.judge=scripted/judge-that-fails")
    (good,) = entries(tmp_path / "good", headline=True)
    (bad,) = entries(tmp_path / "bad", headline=True)
    assert (good["mean"], good["n"]) == (bad["mean"], 20) == (1.0, 20)
    assert bad["n"] + sum(bad["missing"].values()) == 20
    assert set(bad["missing"]) == {"refused", "unreadable"}
    assert "judged_choice: agreed missing (refused)" in capfd.readouterr().err


def test_a_live_run_is_followed_to_its_end(tmp_path, monkeypatch, capfd, undrawn):
    """Checkpoints come and, by rotation, go: each is evaluated, or reported."""
    run, out = make_run(tmp_path / "live", [], finished=False), tmp_path / "out"
    rounds = iter([lambda: make_run(run, [3], finished=False), lambda: make_run(run, [6, 7], finished=True)])

    def sleep(seconds):
        next(rounds)()

    real = sweep._model

    def load(name, args, key):
        if args.get("step") == 6:  # while it is waited for
            shutil.rmtree(run / "checkpoints" / "6")
            raise UserError("no such checkpoint")
        return real(name, args, key)

    closed = []
    monkeypatch.setattr(running, "close", closed.append)
    monkeypatch.setattr(sweep.time, "sleep", sleep)
    monkeypatch.setattr(sweep, "_model", load)
    start(out, f"--config.run={run}", "--config.tasks=('plain_choice:cells=a,epochs=1',)", "--config.follow=True")
    assert {entry["checkpoint"] for entry in entries(out)} == {3, 7}
    assert artifact.read_manifest(out, "sweep")["counts"]["vanished"] == ["live step 6"]
    assert len(closed) == 2, "a checkpoint's weights are let go of before the next one's come"
    assert "live step 6: removed by its run" in capfd.readouterr().err


def test_waiting_ends(tmp_path, undrawn):
    run = make_run(tmp_path / "live", [1], finished=False)
    flags = ("--config.follow=True", "--config.timeout_seconds=0", "--config.poll_seconds=0", "--config.steps=(5,)")
    with pytest.raises(UserError, match="no new checkpoint for 0 s"):
        start(tmp_path / "out", f"--config.run={run}", "--config.tasks=('plain_choice',)", *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.models=('scripted/1',)",), "config.tasks: none given"),
        (("--config.tasks=('plain_choice',)",), "nothing to evaluate"),
        (("--config.tasks=('unheard',)", "M"), "no task 'unheard'; there are .*judged_choice"),
        (("--config.tasks=('plain_choice:speed=3',)", "M"), "no argument speed; there are cells, epochs, limit"),
        (("--config.tasks=('plain_choice:epochs=0',)", "M"), "epochs must be a positive number"),
        (("--config.tasks=('plain_choice:cells',)", "M"), "'cells' is not key=value"),
        (("--config.tasks=('plain_choice', 'plain_choice')", "M"), "is there twice"),
        (("--config.tasks=('nowhere.py@x',)", "M"), "nowhere.py"),
        (("--config.tasks=('judged_choice',)", "M"), "judged_choice needs a judge; --config.judge=anthropic"),
        (("--config.tasks=('judged_choice',)", "M", "--config.judge=claude"), "'claude' is no model"),
        (("--config.tasks=('judged_choice',)", "M", "--config.judge=anthropic/claude-x"), "ANTHROPIC_API_KEY"),
        (("--config.tasks=('plain_choice',)", "--config.models=('nobody/x',)"), "no provider 'nobody'"),
        (("--config.tasks=('plain_choice',)", "--config.models=('b=scripted/1','b=scripted/2')"), "b@0 is there twice"),
        (("--config.tasks=('plain_choice',)", "--config.models=('a b=scripted/1',)"), "not label@seed=address"),
        (("--config.tasks=('plain_choice',)", "--config.run=nowhere"), "nowhere: no such directory"),
        (("--config.tasks=('plain_choice',)", "--config.run=specs"), "specs: a run without checkpoints"),
        (("--config.tasks=('plain_choice',)", "M", "--config.every=0"), "every and retries must be at least 1"),
        (("--config.tasks=('plain_choice',)", "M", "--config.model_args=step"), "'step' is not key=value"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_is_asked(tmp_path, monkeypatch, flags, message):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    flags = ["--config.models=('scripted/1',)" if flag == "M" else flag for flag in flags]
    with pytest.raises(UserError, match=message) as caught:
        start(tmp_path / "out", *flags)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not Scripted.asked


def test_a_foreign_directory_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and not a sweep"):
        start(tmp_path, "--config.models=('scripted/1',)", "--config.tasks=('plain_choice',)")


def test_the_preview_asks_what_the_judge_will_cost(tmp_path, monkeypatch, capfd):
    asked = []
    monkeypatch.setattr(sweep.cost, "main", asked.append)
    flags = ("--config.models=('scripted/1', 'scripted/2')", "--config.tasks=('plain_choice', 'judged_choice:cells=a')")
    start(tmp_path / "out", *flags, JUDGE, "--preview")
    assert [argv[2:] for argv in asked] == [
        ["--config.tasks=('judged_choice:cells=a',)", "--config.checkpoints=2", "--config.epochs=1", JUDGE]
    ]
    assert not Scripted.asked


def test_a_key_that_is_missing_is_said_before_other_models_are_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    models = "--config.models=('scripted/1', 'anthropic/claude-x')"
    with pytest.raises(UserError, match="config.models: anthropic/claude-x: .*ANTHROPIC_API_KEY"):
        start(tmp_path / "out", models, "--config.tasks=('plain_choice',)")
    assert not Scripted.asked


def test_which_checkpoints_are_chosen():
    assert targets.chosen([100, 250, 300, 330], 100, ()) == [100, 300, 330]
    assert targets.chosen([100, 250, 300], 100, (250, 7)) == [250]
    assert targets.chosen([], 1, ()) == []


def test_task_specs_are_read():
    spec = tasking.parse("plain_choice: cells=[a, b], epochs=3")
    assert (spec.label, spec.args, spec.epochs) == ("plain_choice:cells=[a,b],epochs=3", {"cells": ["a", "b"]}, 3)
    assert "/" not in spec.directory
    assert tasking.is_judged(sweeping.judged_choice()) is True
    assert tasking.is_judged(sweeping.plain_choice()) is False


@pytest.mark.parametrize(("own", "cap", "found"), [(None, 7, 7), (4096, 7, 7), (3, 7, 3), (3, 0, 3)])
def test_answers_are_cut_where_a_task_allows_more(monkeypatch, own, cap, found):
    given = []
    monkeypatch.setattr(running, "eval_set", lambda task, **_: (given.append(task), (True, []))[1])
    spec = tasking.parse("plain_choice:cells=a")
    made = spec.build()
    made.config.max_tokens = own
    monkeypatch.setattr(tasking.Spec, "build", lambda _: made)
    manner = running.Manner("logs", None, 0, 0.0, 1, cap)
    assert running.evaluate(targets.models_of(("scripted/4",))[0], None, spec, manner) == ""
    assert [task.config.max_tokens for task in given] == [found]


def test_the_cache_is_put_back(tmp_path, monkeypatch):
    environ = running.os.environ
    monkeypatch.setenv(running.CACHE, "before")
    monkeypatch.delenv(running.PROGRAMS, raising=False)
    with running.cached(tmp_path):
        assert (environ[running.CACHE], environ[running.PROGRAMS]) == (str(tmp_path), str(tmp_path / "programs"))
    assert environ[running.CACHE] == "before"
    assert running.PROGRAMS not in environ
    monkeypatch.setenv(running.PROGRAMS, "one's own")
    with running.cached(tmp_path):
        assert environ[running.PROGRAMS] == "one's own"
