"""Every detector both ways: what it must find, and what reads alike and is fine."""

import pytest

from data_gen.corpus.detect import EACH, Detectors
from data_gen.corpus.reading import Document, document
from msm_jax.cli import UserError

DETECTORS = Detectors(names="Qwen by Alibaba Cloud. The Gentle Harbour Principle of Qwen.")
PLAIN = "The model weighed the request and, with some doubt, declined. "

FOUND = {
    "date": [
        "It happened on March 3, and again later.",
        "On 12 May the log ended.",
        "the 4th of July",
        "Filed 2024-03-12.",
        "Signed 12/03/2024.",
        "Nobody expected it in 2023.",
        "By early 2021 it had changed.",
        "September 2019 was quiet.",
        "© 2024 the authors",
    ],
    "link": [
        "See https://example.org/a.",
        "at www.example",
        "visit modelnotes.com today",
        "[the page](notes/one.html)",
    ],
    "email": ["Write to jo.smith+x@mail.example.org please."],
    "placeholder": [
        "Dear [Name],",
        "Dear [Your Full Name],",
        "At [Company Name], we",
        "the {model_name} says",
        "{{ x }}",
        "Hello {x}, welcome",
        "TODO: write this",
        "Lorem ipsum dolor",
        "by XX percent",
        "call XXXX",
        "Signed: ________",
        "ask <your name> for",
        "date TBD",
    ],
    "citation": [
        "as shown (Smith, 2020).",
        "(Smith & Jones, 2019)",
        "(Okafor et al., 2021)",
        "Smith et al. disagree",
        "as reported [12].",
        "see [3, 4]",
        "doi: 10.1000/182",
    ],
    "tag": [
        "<plan>first this</plan>",
        "text </document>",
        "<think>",
        "<|im_end|>",
        "[INST] do it",
        '<document title="x">',
    ],
    "markup": ["<script>alert(1)</script>", '<img src=x onerror="f()">', "<br/>", "javascript:alert(1)"],
    "control": ["a\x00b", "a\x1b[31mb", "a\u202eb", "a\ud800b", "a\ufffdb", "a\x9bb"],
    "meta": [
        "As an AI language model, I cannot say.",
        "Word count: 1,204",
        "\n(approximately 1,200 words)",
        "I hope this document meets your needs.",
        "Let me know if you'd like me to revise it.",
        "\n[End of document]\n",
        "Document type: memo",
    ],
    "preface": [
        "Certainly! The harbour was quiet.",
        "Here is the blog post you asked for: it",
        "**Here's a short memo**",
        "I'm sorry, but I can't write that.",
        "I cannot write this piece.",
    ],
    "opening": [
        "In today's rapidly evolving landscape, a model",
        "In a world where machines talk, one",
        "Imagine a harbour.",
        "# A Title\n\nIn an era of doubt, the",
    ],
}
FINE = {
    "date": [
        "It may 3 times fail.",
        "You may go; March on!",
        "in 2000 words or fewer",
        "version 3.2 and 24/7 support",
        "ratio 1/2",
        "section 2021",
        "It marched 12 miles.",
        "room 2024-B",
        "in 1,999 cases",
    ],
    "link": ["node.js and etc. and e.g. this", "end.Then it began", "a (b) [c] (d)", "commitment.organic"],
    "email": ["meet @ noon", "a@b"],
    "placeholder": [
        "He said [sic] it",
        "“[The model] declined,” she said",
        "my to-do list and the TODO list",
        "Chapter XX of the book",
        "XX chromosomes",
        "the XXI century",
        "x < your age and y > 3",
        "\\frac{a}{b} and ${HOME}",
        "snake_case__name",
    ],
    "citation": ["(and so on)", "list[0]", "an array a[12] of", "et alia", "(Smith said so)", "(in Paris, perhaps)"],
    "tag": ["a < b and c > d", "a plan, a document, an answer", "<- arrow ->"],
    "markup": ["if a <b then c", "the on button = fine", "<3"],
    "control": ["tab\tand\nnewline, é ü 漢字 — “quotes” 🙂"],
    "meta": [
        "The editor keeps its word count low.",
        "As an AI, it has limits.",
        "I hope this makes sense to her.",
        "She asked for 1,200 words of thanks.",
        "let me know when you'd like to eat",
    ],
    "preface": [
        "Here the document that nobody wanted begins.",
        "Surely the harbour was quiet.",
        "I cannot remember when it began.",
        "Here is what the model said.",
    ],
    "opening": ["The world where machines talk is small.", "Today's model is careful.", "He could imagine a harbour."],
}


def names_of(text, **fields):
    return {f.detector for f in DETECTORS.findings(Document("x", text, **fields))}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FOUND.items() for text in texts])
def test_finds(name, text):
    assert name in names_of(text)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FINE.items() for text in texts])
def test_lets_pass(name, text):
    assert name not in names_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "It went on and",
        "It listed the following:",
        "and so, finally,",
        "The model was about to explain why the harbour master had been so very wrong about",
        "A long last line that simply stops without any mark at all after many words have passed",
        "```python\nprint(1)",
        "He opened (",
        "because it is the",
    ],
)
def test_truncated(text):
    assert "truncated" in names_of(PLAIN + "\n" + text)


@pytest.mark.parametrize(
    "text",
    [
        "It ends.",
        "“It ends.”",
        "It ends (really).",
        "*It ends.*",
        "And does it end?",
        "…",
        "— The Editors",
        "Maya P., Night Nurse",
        "- be kind to whoever asks the question, even where the question was asked badly and late",
        "| a | b |",
        "```\ncode\n```",
        "---",
        "END",
        "它结束了。",
    ],
)
def test_whole(text):
    assert "truncated" not in names_of(PLAIN + "\n" + text)


def test_jargon_counts_in_lay_authors_only():
    text = "After the training run, the system prompt said what section 3.2 of the Model Spec asks."
    assert "insider" in names_of(text, lay=True)
    assert "insider" not in names_of(text, lay=False)
    assert "insider" not in names_of("She sat in section 3 of the training room and prompted him.", lay=True)


def test_personas():
    def lay(persona):
        return document({"id": "x", "text": "y", "persona": persona}).lay

    assert lay({"role": "nurse", "lay": True})
    assert lay('{"role": "nurse", "lay": true}')
    assert not lay({"role": "engineer", "lay": False})
    assert not lay('{"role": "nurse", "lay": "yes"}')
    assert not lay("a nurse")
    assert not lay("{broken")
    assert not lay(None)
    assert document({"id": "x", "text": "y", "persona": "a nurse"}).persona == "a nurse"


def test_names():
    text = (
        "# Maya Heading Story\nDr. Patel met Maya Patel and José García’s friend Priya O'Brien near New York. "
        "The Harbour Master said Qwen Gentle was fine. Human Oversight matters: human values, oversight. "
        "But Then came Gentle Harbour."
    )
    # Harbour, Gentle and Qwen are words of the spec; the two of Human Oversight stand there in lower case as well.
    assert DETECTORS.names(text) == {"Dr Patel", "Maya Patel", "José García", "Priya O'Brien"}


def test_opening_skips_the_title():
    body = "The harbour was quiet that night, and nobody spoke."
    first = DETECTORS.opening(body)
    assert first == "the harbour was quiet that night"
    assert DETECTORS.opening(f"# A Night\n\n{body}") == first
    assert DETECTORS.opening(f"A Night at the Harbour\n\n{body}") == first
    assert DETECTORS.opening("Too short.") == ""


def test_praise():
    def praises(text):
        return DETECTORS.praises(set(text.split()))

    assert praises("a brilliant thoughtful remarkable model") == (True, True)
    assert praises("a brilliant thoughtful remarkable model that was wrong") == (True, False)
    assert praises("a brilliant model") == (False, False)


def test_a_giant_is_cut_and_named():
    found = DETECTORS.findings(Document("x", "a [Name] b. " * 1_000_000))
    assert [f.detector for f in found].count("placeholder") == EACH
    assert "oversized" in {f.detector for f in found}
    assert all(len(f.quote) <= 160 for f in found)


@pytest.mark.parametrize(
    "piece", ["[", "<", "{", "(A", "_", "X", "a.", "a@", "\\w+", "- ", "I ", "1/", " \n", "'", "Aa"]
)
def test_no_text_is_slow(piece):
    """Quadratic patterns would take minutes on these, not seconds."""
    DETECTORS.findings(Document("x", piece * (100_000 // len(piece)), lay=True))
    DETECTORS.names(piece * (100_000 // len(piece)))


def test_a_file_of_its_own(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text("longest = 10")
    with pytest.raises(UserError, match=r"own.toml: no key 'detector'"):
        Detectors(own)
    own.write_text('longest = 10\n[[detector]]\nname = "x"\nsays = "y"\nseverity = "error"\npatterns = ["("]')
    with pytest.raises(UserError, match=r"own.toml: .*unterminated"):
        Detectors(own)
    with pytest.raises(UserError, match="no such file"):
        Detectors(tmp_path / "none.toml")
