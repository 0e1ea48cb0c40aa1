"""Prompts: every file renders with exactly the variables it declares, and what is put in is never a template."""

import pytest

from data_gen import prompt
from msm_jax.cli import UserError

HEAD = "---\nsystem: spec\nuser: count\n---\n=== system ===\n{{ spec }}\n=== user ===\n{{ count }}\n"


@pytest.mark.parametrize("name", prompt.names())
def test_every_prompt_loads(name):
    """Loading compares declared variables with used ones; the stages' own tests render them."""
    found = prompt.load(name)
    assert found.variables["system"], "a prompt without variables is about nothing"
    assert len(found.sha256) == 64


def write(tmp_path, text):
    (tmp_path / "p.md").write_text(text)
    return prompt.load("p", tmp_path)


def test_braces_of_a_value_stay(tmp_path):
    found = write(tmp_path, HEAD)
    bait = "{{ count }} {% for x in y %} {0.__class__} {model_name} %s ${x} #{y}"
    assert found.system(spec=bait) == bait + "\n"
    assert found.user(count=3) == "3\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (HEAD.replace("user: count", "user: count, have"), "have"),
        (HEAD.replace("system: spec", "system:"), "spec"),
        (HEAD.replace("{{ count }}", "{{ count }"), "user part"),
        (HEAD.replace("=== system ===", "== system =="), "header"),
    ],
)
def test_wrong_files_are_named(tmp_path, text, what):
    with pytest.raises(UserError, match=what) as error:
        write(tmp_path, text)
    assert "p.md" in str(error.value)
    prompt.load.cache_clear()


def test_undeclared_values_are_an_error(tmp_path):
    found = write(tmp_path, HEAD)
    with pytest.raises(TypeError, match="have"):
        found.user(count=1, have=2)
    with pytest.raises(TypeError, match="count"):
        found.user()
