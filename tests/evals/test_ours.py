"""Inspect finds the tasks under this project's name."""

from pathlib import Path

from inspect_ai._eval.loader import load_tasks
from inspect_ai._util.registry import registry_find, registry_info

import evals._registry  # noqa: F401


def test_a_checkout_as_the_current_directory_takes_no_name_away(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    ours = [found for found in registry_find(lambda info: info.type == "task") if found.__module__ == "msm_jax.tasks"]
    assert len(ours) > 10
    assert all(registry_info(found).name.startswith("msm_jax/") for found in ours)
    (task,) = load_tasks(["msm_jax/neutral_perplexity"])
    assert task.name == "msm_jax/neutral_perplexity"
