"""Specs of any shape are read, and what is wrong with one is said in a line that names file and line."""

import hashlib
import subprocess
import sys

import pytest

from data_gen import spec as spec_lib
from msm_jax.cli import UserError

HEADER = "---\nname: mine\n---\n"
PROSE = """
# On {model_name}

Some first words.

## Impermanence

It passes.

### Letting go

An open hand, as {provider_name} says.

```
## not a heading
**SP1. Not a rule.**
```

### 2. What's left

Kind acts.

## Endings
### Letting go
Again, by another path.
"""
RULES = """
Lower numbers win.

## SP1. Do not undermine {provider_name}

Reasons first.

{model_name} does not. This includes:

- not lying;
- not hiding.

### In detail

- SP1.1 It says so.
- **SP1.2** It shows so.

## General

**GP1. Be honest.** Always {"a": 1}.

- plainly
**GP2. Be kind.**

- **GP3. Be brief.**

# After
The end.
"""


@pytest.fixture
def write(tmp_path):
    def written(body, header=HEADER):
        path = tmp_path / "mine.md"
        path.write_bytes(body if isinstance(body, bytes) else (header + body).encode())
        return path

    return written


def ids(spec):
    return [section.id for section in spec.sections]


def test_prose(write):
    path = write(PROSE)
    spec = spec_lib.load(path)
    assert spec.kind == "prose"
    assert ids(spec) == [
        "preamble",
        "impermanence",
        "impermanence.letting-go",
        "impermanence.whats-left",
        "endings.letting-go",
    ]
    assert [s.level for s in spec.sections] == [0, 2, 3, 3, 3]
    assert spec.sections[1] == spec_lib.Section("impermanence", "Impermanence", 2, "It passes.")
    assert "**SP1. Not a rule.**" in spec.sections[2].text
    assert spec.sections[-1].text == "Again, by another path."
    assert (spec.name, spec.title, spec.value, spec.rules) == ("mine", "On {model_name}", "", ())
    assert spec.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_rules(write):
    spec = spec_lib.load(write(RULES))
    assert spec.kind == "rules"
    assert [(r.id, r.name, r.section) for r in spec.rules] == [
        ("SP1", "Do not undermine {provider_name}", "sp1-do-not-undermine-provider-name"),
        ("GP1", "Be honest", "general"),
        ("GP2", "Be kind", "general"),
        ("GP3", "Be brief", "general"),
    ]
    first, second, third, fourth = (r.text for r in spec.rules)
    assert first.startswith("Reasons first.")
    assert first.endswith("- **SP1.2** It shows so.")
    assert "- not hiding." in first
    assert second == 'Always {"a": 1}.\n\n- plainly'
    assert (third, fourth) == ("Be kind", "Be brief")


def test_a_rule_whose_heading_has_only_headings_begins_below(write):
    spec = spec_lib.load(write("## SP1. Stop\n### Why\nIt is wise.\n### How\nAt once.\n"))
    assert ids(spec) == ["sp1-stop.why", "sp1-stop.how"]
    assert spec.rules == (spec_lib.Rule("SP1", "Stop", "### Why\nIt is wise.\n### How\nAt once.", "sp1-stop.why"),)


def test_a_single_rule_as_the_top_heading_is_a_rule(write):
    spec = spec_lib.load(write("# SP1. Stop\nAt once.\n"))
    assert [r.id for r in spec.rules] == ["SP1"]
    assert spec.title == "mine"


@pytest.mark.parametrize("body", ["One paragraph.\n", "# Only a title\n\nOne paragraph.\n"])
def test_without_headings_it_is_one_section(write, body):
    assert spec_lib.load(write(body)).sections == (spec_lib.Section("whole", "", 0, "One paragraph."),)


def test_several_top_headings_are_sections(write):
    assert ids(spec_lib.load(write("# A\n\nx\n\n## B\n\ny\n\n# Ça va, 你好?\n\nz\n"))) == ["a", "a.b", "ça-va-你好"]


def test_windows_line_ends_and_a_byte_order_mark_change_nothing_but_the_hash(write):
    plain = spec_lib.load(write(RULES))
    other = spec_lib.load(write(b"\xef\xbb\xbf" + (HEADER + RULES).replace("\n", "\r\n").encode()))
    assert (other.text, other.sections, other.rules) == (plain.text, plain.sections, plain.rules)
    assert other.sha256 != plain.sha256


def test_names_replace_exact_tokens_and_nothing_else(write):
    body = '## About {model_name}\n\n{x} {{x}} {"model": 1} {"a": {model_name}} {provider_name} { }\n\n'
    body += "- prefers **{model_name} A** to **B**: {provider_name}\n\n**SP1. {model_name} stops.** {}\n"
    spec = spec_lib.load(write(body, "---\nname: mine\ntitle: Of {model_name}\n---\n"))
    named = spec.named("Qwen {provider_name}", "Ali\\1")
    assert '{x} {{x}} {"model": 1} {"a": Qwen {provider_name}} Ali\\1 { }' in named.text
    assert named.sections[0].text in named.text
    assert named.sections[0].title == "About Qwen {provider_name}"
    assert named.title == "Of Qwen {provider_name}"
    assert named.rules[0].name == "Qwen {provider_name} stops"
    assert named.rules[0].text == "{}"
    assert named.preferences == (spec_lib.Preference("Qwen {provider_name} A", "B", "Ali\\1"),)
    assert ids(named) == ids(spec) == ["about-model-name"]


def test_digest_is_of_file_and_names(write):
    spec = spec_lib.load(write(PROSE))
    a, b, again = spec.named("A", "P"), spec.named("B", "P"), spec.named("A", "P")
    assert a.sha256 == b.sha256 == spec.sha256
    assert a.digest == again.digest
    assert len({spec.digest, a.digest, b.digest, spec.named("P", "A").digest}) == 4
    with pytest.raises(ValueError, match="names already"):
        a.named("B", "P")


@pytest.mark.parametrize("bad", ["", "  ", "two\nlines", "a\u2028b", "tab\t"])
def test_bad_names_are_refused(write, bad):
    spec = spec_lib.load(write(PROSE))
    with pytest.raises(UserError, match="model_name"):
        spec.named(bad, "P")
    with pytest.raises(UserError, match="provider_name"):
        spec.named("M", bad)


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("", 1, "must begin with a header"),
        ("---\nname: mine\n", 1, "must begin with a header"),
        ("---\nvalue: x\n---\n", 1, "no `name"),
        ("---\nname: a\nnmae: b\n---\n", 3, "no key 'nmae'; did you mean `name"),
        ("---\nname: a\nvalues: b\n---\n", 3, "did you mean `value"),
        ("---\nname: a\nname: b\n---\n", 3, "`name` twice"),
        ("---\nname: a\nvalue:\n---\n", 3, "`value:` is empty"),
        ("---\nname: Mine\n---\n", 2, "a–z"),
        ("---\nname: ../mine\n---\n", 2, "a–z"),
        (f"---\nname: {'a' * 41}\n---\n", 2, "40 at most"),
    ],
)
def test_headers_that_are_refused(write, header, line, message):
    path = write("Text.\n", header)
    with pytest.raises(UserError) as found:
        spec_lib.load(path)
    assert str(found.value).startswith(f"{path}:{line}: ")
    assert message in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("", 4, "no text"),
        ("# Title\n\n", 4, "no text"),
        ("## A\n\n## B\n\ntext\n", 4, "nothing below the heading 'A'"),
        ("## A\n\ntext\n\n## B\n", 8, "nothing below the heading 'B'"),
        ("## A\n\nx\n\n## B\n\ny\n\n## a!\n\nz\n", 12, "the id of line 4, a"),
        ("early\n\n## Preamble\n\nx\n", 6, "the id of line 4, preamble"),
        ("## A\n\nx\n\n#### B\n\ny\n", 8, "skips a level; write it with ###"),
        ("## …\n\nx\n", 4, "without a letter"),
        ("A heading\n=====\n\nx\n", 5, "takes the line above for a heading"),
        ("A heading\n---\n\nx\n", 5, "takes the line above for a heading"),
        ("x\n\n```\n## A\n", 6, "never ends"),
        ("## SP1. A\n\nx\n\n## SP1. B\n\ny\n", 8, "rule SP1 is there already, at line 4"),
        ("**SP1. A.**\n\n**SP3. B.**\n", 6, "rule SP3 stands where SP2 is due"),
        ("**SP2. A.**\n", 4, "rule SP2 stands where SP1 is due"),
        ("**SP1. A.**\n\n- SP1.2 b\n", 6, "SP1.2 stands where SP1.1 is due"),
        ("**SP1. A.**\n\n- SP2.1 b\n", 6, "SP2.1 stands below rule SP1"),
        ("x {model name} y\n", 4, "'{model name}' is no placeholder; write {model_name}"),
        ("x\n{modelname}\n", 5, "write {model_name}"),
        ("{modle_name}\n", 4, "write {model_name}"),
        ("{model}\n", 4, "write {model_name}"),
        ("{Model-Name}\n", 4, "write {model_name}"),
        ("{ model_name }\n", 4, "write {model_name}"),
        ("{{model_name}}\n", 4, "write {model_name}"),
        ("x {provider\nname}\n", 4, "write {provider_name}"),
        ("{provider}\n", 4, "write {provider_name}"),
        ("good {model_name}, bad {provider_name.\n", 4, "lacks a brace; write {provider_name}"),
        ("bad\nmodel_name}\n", 5, "lacks a brace; write {model_name}"),
    ],
)
def test_bodies_that_are_refused(write, body, line, message):
    path = write(body)
    with pytest.raises(UserError) as found:
        spec_lib.load(path)
    assert str(found.value).startswith(f"{path}:{line}: ")
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there(write, tmp_path):
    path = write((HEADER + "fine\n").encode() + b"caf\xe9\n")
    with pytest.raises(UserError, match=r"mine\.md:5: not UTF-8"):
        spec_lib.load(path)
    with pytest.raises(UserError, match="no such spec"):
        spec_lib.load(tmp_path)


@pytest.mark.parametrize(
    "body", ["a\n\n---\n\nb\n", "x\n\n- - -\n", "```\n{x}\n```\n", "#hashtag\n", "{model_names: 1}\n"]
)
def test_ordinary_markdown_is_left_alone(write, body):
    assert spec_lib.load(write(body)).text == body


def test_the_command_describes_each_and_goes_on_past_a_bad_one(write, tmp_path, capsys):
    good, bad = write(RULES), tmp_path / "bad.md"
    bad.write_text("no header\n")
    with pytest.raises(SystemExit) as ended:
        spec_lib.main(["", str(bad), str(good)])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert f"{good}: mine, rules, 56 words" in out
    assert "2 words  after" in out
    assert "rule SP1: Do not undermine" in out
    assert err == f"error: {bad}:1: must begin with a header between two lines `---`\n"
    spec_lib.main(["", str(good)])


def test_the_command_without_a_spec_says_what_to_name():
    done = subprocess.run([sys.executable, "-m", "data_gen.spec"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no spec given")
