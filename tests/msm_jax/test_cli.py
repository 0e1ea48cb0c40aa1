"""Bad input ends in one line that names it, and an exit status."""

import errno
import subprocess
import sys

import pytest

from msm_jax import cli
from msm_jax.cli import UserError
from tests.conftest import ROOT, train_tiny


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no configuration given"),
        (["--config=nowhere.py"], "nowhere.py"),
        (
            ["--config=configs/common.py", "--config.optim.lrr=1"],
            "unknown key --config.optim.lrr, or no =value; did you mean --config.optim.lr=…?",
        ),
        (["--config=configs/common.py", "--config.optim.lr=fast"], "fast"),
        (["--config=configs/common.py", "--verbose"], "unexpected argument '--verbose'"),
        (["--config=configs/common.py", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_bad_arguments(args, message):
    with pytest.raises(UserError) as found:
        cli.parse_config(["", *args])
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_overrides_keep_their_types():
    config = cli.parse_config(
        ["", "--config=configs/common.py", "--config.optim.lr=1", "--config.data.sources=('a', 'b')"]
    )
    assert config.optim.lr == 1.0
    assert config.data.sources == ("a", "b")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.steps=-1", "config.optim.steps = -1"),
        ("optim.lr=-1.0", "config.optim.lr = -1.0"),
        ("optim.warmup_steps=13", "config.optim.warmup_steps"),
        ("optim.accumulate=3", "config.data.batch_rows"),
        ("optim.loss_chunk=7", "config.optim.loss_chunk = 7"),
        ("optim.lr_multipliers=(('embedd', 2.0),)", "'embedd' matches none of"),
        ("model.K=3", "config.model.H = 4: must be a multiple of config.model.K = 3"),
        ("model.h=7", "config.model.h = 7: must be even"),
        ("model.dtype='int8'", "config.model.dtype"),
        ("model.L=0", "config.model.L"),
        ("mesh.fsdp=3", "cannot be 8 devices"),
        ("mesh.tensor=8", "does not divide H"),
        ("data.batch_rows=4", "cannot be split over 8 devices"),
        ("data.weights=(1.0, 2.0)", "1 sources but 2 weights"),
        ("data.weights=(0.0,)", "one above it in every stage"),
        ("init_from=nowhere", "nowhere: no such directory"),
        ("init_words=(('a', 'b'),)", "config.init_words"),
        ("optim.lr_multipliers=(('[', 2.0),)", "config.optim.lr_multipliers"),
        ("optim.eps=0.0", "config.optim.eps"),
        ("optim.nu_dtype=float16", "config.optim.nu_dtype"),
        ("optim.supervised_only=True", "config.optim.supervised_only"),
        ("model.remat=half", "config.model.remat = 'half'"),
        ("model.attention=fast", "config.model.attention = 'fast'"),
        ("model.unroll=7", "config.model.unroll = 7"),
    ],
)
def test_impossible_values(toy, tmp_path, setting, message):
    with pytest.raises(UserError) as found:
        train_tiny(tmp_path / "run", [toy.shards("base")], f"--config.{setting}")
    assert message in str(found.value)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists(), "a bad setting leaves no trace"


def test_another_model_is_not_a_start(toy, tiny_run, tmp_path):
    with pytest.raises(UserError, match="another model than config.model .D = 32 there, 64 here"):
        train_tiny(tmp_path / "run", [toy.shards("aft")], f"--config.init_from={tiny_run}", "--config.model.D=64")


def test_process_exits_with_two_and_one_line():
    done = subprocess.run([sys.executable, "-m", "msm_jax.train", "--config=configs/common.py", "--config.optim.steps=-1"],
                          capture_output=True, text=True, cwd=ROOT)  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1]
        == "error: config.optim.steps = -1: must be at least 1, or 0 to follow from optim.epochs"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "x.jsonl"),
        RuntimeError("write() failed: No space left on device; writing rows-00000.array_record"),
        ValueError("RESOURCE_EXHAUSTED: Failed to write 1 bytes: No space left on device [os_error_code='28']"),
    ],
    ids=["python", "array_record", "orbax"],
)
def test_full_disk_is_one_line(capsys, error, monkeypatch):
    left = []
    monkeypatch.setattr(cli, "_leave_behind", left.append)  # or this process would end, some time from now

    def full(_):
        raise error

    with pytest.raises(SystemExit) as stopped:
        cli.entry(full)
    assert [stopped.value.code] == left == [3]
    assert capsys.readouterr().err.splitlines() == [
        "error: no space left on the disk; free some and run the same command"
    ]


def test_a_fault_of_ours_is_not_hidden():
    def broken(_):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.entry(broken)
