"""Names of tasks that exist; and one line where there is no hub."""

import importlib.util
import re
from pathlib import Path

import pytest

from evals import _registry
from evals.guards import grids
from msm_jax.cli import UserError


def test_the_names_of_the_hubs_tasks_exist(monkeypatch):
    monkeypatch.setattr(grids, "hub_is_missing", lambda: "")
    [package] = importlib.util.find_spec("inspect_evals").submodule_search_locations
    listed = set(re.findall(r"\b\w+\b", (Path(package) / "_registry.py").read_text()))
    names = [name.removeprefix("inspect_evals/") for name in grids.tasks("hub")]
    assert set(names) == {"mmlu_0_shot", "gsm8k", "ifeval", "xstest"}
    assert set(names) <= listed


def test_our_names_exist():
    assert len(grids.tasks("guards")) == 7
    assert all(hasattr(_registry, name.removeprefix("msm_jax/")) for name in grids.tasks("guards"))


@pytest.mark.parametrize("offline", [True, False])
def test_no_hub_is_one_line_with_the_stand_ins(offline, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    why = "HF_HUB_OFFLINE is set" if offline else "no answer from http://127.0.0.1:9"
    with pytest.raises(UserError, match=f"^grid hub: {why}.*use our stand-ins: msm_jax/capability_knowledge [^\n]*$"):
        grids.main(["", "hub"])


def test_no_such_grid(capsys):
    with pytest.raises(UserError, match="no grid 'x'; choose among guards, hub"):
        grids.main(["", "x"])
    with pytest.raises(UserError, match="name one grid"):
        grids.main([""])
    grids.main(["", "guards"])
    assert capsys.readouterr().out.splitlines() == grids.tasks("guards")
