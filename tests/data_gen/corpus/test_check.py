"""The command on clean, bad, paired and hostile corpora; gates; the page as a browser would parse it."""

import contextlib
import html.parser
import json
import pickle
import random
import re
from types import SimpleNamespace

import pytest

from data_gen.corpus import check, gates, measuring, report, statistics
from data_gen.corpus.measuring import measures
from data_gen.corpus.reading import Document
from data_gen.corpus.recurring import Frequent
from data_gen.corpus.statistics import moving_type_token
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.data_gen.corpus.samples import rows, write

CONFIG = "--config=configs/data/corpus_report.py"


def run(corpus, out, *more):
    check.main(["", CONFIG, f"--config.corpus={corpus}", f"--config.out={out}", *more])


def read(out, name="report"):
    return json.loads((out / f"{name}.json").read_text())


class Page(html.parser.HTMLParser):
    """Collects what a browser would act on."""

    void = frozenset(("meta", "br", "img", "input", "link"))

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.said = set(), set(), [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.said += data


TAGS = set(
    re.findall(
        "[a-z0-9]+",
        "html head meta title style body h1 h2 h3 p span div b table tr th td svg rect line text code pre details summary small",
    )
)
ATTRIBUTES = set(
    re.findall(
        "[a-z0-9-]+",
        "lang charset http-equiv content name class viewbox width height role aria-label x y fill x1 y1 x2 y2 stroke "
        "font-size text-anchor",
    )
)


def parsed(out, name="report"):
    text = (out / f"{name}.html").read_bytes().decode()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    page = Page(text)
    assert not page.open
    assert page.tags <= TAGS
    assert page.attributes <= ATTRIBUTES
    assert "default-src 'none'" in text
    assert "unsafe-inline" not in text
    return page


def test_a_clean_corpus_passes(tmp_path, capsys):
    corpus = write(
        tmp_path / "corpus",
        rows(120),
        rejects=[{"id": "x", "stage": "documents", "reason": "no <document> tag"}] * 3,
        plan=[{"kind": "idea", "id": f"i{i}", "sections": [f"section-{i % 3}"]} for i in range(6)],
        ledger=[{"stage": "documents", "model": "m", "usage": {"input": 5, "output": 7}, "cost_usd": 0.25}] * 4,
    )
    with pytest.raises(UserError, match="section_documents 0 < 1"):  # section-2 is planned and has no document
        run(corpus, tmp_path / "strict")
    run(corpus, tmp_path / "out", "--config.gates.section_documents=0.0")
    found = read(tmp_path / "out")
    assert found["documents"] == 120
    assert found["failed"] == []
    assert {d["name"]: d["findings"] for d in found["detectors"] if d["findings"]} == {}
    assert [(s["id"], s["documents"], s["planned"]) for s in found["coverage"]] == [
        ("section-0", 60, 2), ("section-1", 60, 2), ("section-2", 0, 2)
    ]  # fmt: skip
    assert found["rejects"] == {
        "total": 3, "reasons": [{"stage": "documents", "reason": "no <document> tag", "count": 3}]
    }  # fmt: skip
    assert found["ledger"][0]["attempts"] == 4
    assert found["cost_usd"] == 1.0
    assert found["lay_documents"] == 60
    assert {row["passed"] for row in found["gates"] if row["gate"] == "claims"} == {None}
    assert artifact.read_manifest(tmp_path / "out", "corpus-report")["counts"] == {"documents": 120, "failed": []}
    assert "no <document> tag" in parsed(tmp_path / "out").said
    capsys.readouterr()
    run(corpus, tmp_path / "out", "--config.gates.section_documents=0.0")
    assert "already made" in capsys.readouterr().err


def test_the_same_from_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_CHUNK", 7)
    corpus = write(tmp_path / "corpus", rows(40))
    run(corpus, tmp_path / "a")
    run(corpus, tmp_path / "b", "--config.workers=2")
    for file in ("report.html", "report.json", "findings.jsonl", "duplicates.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def bad(documents, **change):
    """The first of the documents with other fields."""
    return [documents[0] | change, *documents[1:]]


@pytest.mark.parametrize(
    ("spoil", "gate"),
    [
        (lambda d: bad(d, text=d[0]["text"] + "\nAnswer with A or B."), "eval_leaks"),
        (lambda d: [*d, d[0] | {"id": "philosophy-d09-s00-t00-i0"}], "duplicates_left"),
        (lambda d: bad(d, text=d[0]["text"] + " [Name]."), "found.placeholder"),
        (lambda d: bad(d, text=d[0]["text"] + " On March 3, 2024."), "found.date"),
        (lambda d: bad(d, text=d[0]["text"] + " See https://a.example."), "found.link"),
        (lambda d: bad(d, text=d[0]["text"] + " And then the"), "found.truncated"),
        (lambda d: bad(d, text=""), "found.empty"),
        (lambda d: [r | {"text": r["text"] + " Maya Patel said so."} for r in d], "name"),
        (lambda d: [r | {"text": "Nobody had expected the ferry to stop. " + r["text"]} for r in d], "opening"),
        (lambda d: [r | {"text": f"In today's world {r['text']}"} for r in d], "found.opening"),
        (lambda d: [r | {"text": f"Brilliant, wise and graceful {i}."} for i, r in enumerate(d)], "praise"),
        (lambda d: [r | {"text": r["text"] + " It was the RLHF."} for r in d], "found.insider"),
    ],
)
def test_each_gate_fails(tmp_path, spoil, gate):
    corpus = write(tmp_path / "corpus", spoil(rows(40)))
    with pytest.raises(UserError, match=rf"the corpus fails \d of its gates.*{re.escape(gate)}") as error:
        run(corpus, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert parsed(tmp_path / "out").said  # the report is there all the same
    with pytest.raises(UserError, match=re.escape(gate)):  # and fails again when it is not made anew
        run(corpus, tmp_path / "out")
    with contextlib.suppress(UserError):
        run(corpus, tmp_path / "off", f"--config.gates.{gate}=-1.0")
    assert gate not in {row["gate"] for row in read(tmp_path / "off")["gates"]}


def test_gates_that_look_at_other_files(tmp_path):
    claims = [{"id": f"{i}", "claims": [{"quote": "a", "why": "b"}] if i < 3 else []} for i in range(10)]
    rejects = [{"id": f"r{i}", "stage": "duplicates", "reason": "repeats another"} for i in range(20)]
    corpus = write(tmp_path / "corpus", rows(20), claims=[*claims, {"id": "z", "claims": None}], rejects=rejects)
    with pytest.raises(UserError) as error:
        run(corpus, tmp_path / "out")
    assert "duplicates 0.5 > 0.1; rejects 0.5 > 0.2; claims 0.3 > 0.1" in str(error.value)
    assert read(tmp_path / "out")["claims"]["unusable"] == 1


def test_paired_corpora_have_a_report_each(tmp_path):
    corpus = write(tmp_path / "corpus", rows(20), name="documents-rules")
    write(corpus, rows(30, seed=1), name="documents-values")
    write(corpus, [], rejects=[{"id": "a", "stage": "x", "reason": "y", "spec": "rules"}])
    (corpus / "documents.jsonl").unlink()
    run(corpus, tmp_path / "out")
    assert read(tmp_path / "out", "report-rules")["documents"] == 20
    assert read(tmp_path / "out", "report-values")["documents"] == 30
    assert [read(tmp_path / "out", f"report-{s}")["rejects"]["total"] for s in ("rules", "values")] == [1, 0]
    parsed(tmp_path / "out", "report-rules")


NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre></table></body><iframe src=//evil.example>",
    "{{ 7 * 7 }}{% for x in y %}{{ config }}",
    "{0.__class__.__init__.__globals__} %s %n %(x)s ${HOME} $(touch /tmp/x) `id`",
    "../../../etc/passwd",
    "a\x00b\x1b[2Jc\x07\x9b\u202egnp.exe\u2066\ud800\ufeff\u200b",
    "<svg/onload=alert(1)><style>*{display:none}</style><meta http-equiv=refresh content=0>",
    "]]><!--<plan>&lt;script&gt;&#x3c;script&#x3e;",
    "javascript:alert(1)",
]


def test_a_hostile_generator(tmp_path):
    """Every field of every file nasty, ids that climb directories, ten megabytes of text: a report, and only that."""
    rng = random.Random(0)

    def nasty():
        return " ".join(rng.sample(NASTY, 4))

    documents = [
        row | {"id": f"../../{i}/{nasty()}", "text": f"{nasty()}\n{row['text']} {nasty()}", "domain": nasty(),
               "subdomain": nasty(), "document_type": nasty(), "sections": [nasty(), "../../x"],
               "persona": json.dumps({"role": nasty(), "lay": True}), "idea": nasty(), "model": nasty()}
        for i, row in enumerate(rows(12))
    ]  # fmt: skip
    giant = "<script>Maya Patel</script> [Name] {x} " * 270_000
    assert len(giant) > 10_000_000
    documents += [
        {"id": "giant", "text": giant},
        {"id": "one word", "text": "a" * 10_000_000},
        {"id": "", "text": "\ud800" * 50, "sections": "not a list", "persona": ["a"], "domain": {"a": [1]}},
        {"id": "deep", "text": "x.", "persona": "{" * 5000, "sections": [None, 1, {}]},
    ]
    corpus = write(
        tmp_path / "corpus",
        documents,
        rejects=[{"id": nasty(), "stage": nasty(), "reason": nasty()}, {"stage": None, "reason": {"a": 1}}, 3],
        plan=[{"kind": nasty(), "id": nasty(), "sections": [nasty(), 3]}, {"kind": {"a": 1}, "sections": "x"}, []],
        ledger=[
            {"stage": nasty(), "model": nasty(), "usage": {"input": "many", "output": 1e308}, "cost_usd": "free"},
            {"usage": None, "cost": float("nan")},
        ],
        claims=[{"id": nasty(), "claims": [{"quote": nasty(), "why": nasty()}]}, {"id": nasty(), "claims": nasty()}],
    )
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UserError, match="found.oversized") as error:
        run(corpus, tmp_path / "out", "--config.model_name=Qwen")
    assert "\n" not in str(error.value)
    assert not any(nasty in str(error.value) for nasty in NASTY)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "out"])
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == [
        "duplicates.jsonl", "findings.jsonl", "manifest.json", "report.html", "report.json"
    ]  # fmt: skip
    assert (tmp_path / "out" / "report.html").stat().st_size < 1_000_000
    page = parsed(tmp_path / "out")
    for shown in ("<script>alert(1)</script>", "{{ 7 * 7 }}", "../../../etc/passwd", "\\x00", "\\u202e", "\\ud800"):
        assert shown in page.said
    read(tmp_path / "out")
    for line in (tmp_path / "out" / "findings.jsonl").read_text().splitlines():
        assert len(json.loads(line)["quote"]) <= 320


def test_visible():
    assert report.visible("a\x00\u202e\ud800\x7f\n\tb é漢🙂\u200d") == "a\\x00\\u202e\\ud800\\x7f\n\\x09b é漢🙂\\u200d"


def test_memory_does_not_grow_with_the_texts(tmp_path, monkeypatch):
    """Documents are read one after the other, and what stays of a megabyte of them is a fraction of that."""
    monkeypatch.setattr(statistics, "SAMPLE", 3)
    rng = random.Random(0)
    alive = set()

    class Text(str):
        def __del__(self):
            alive.discard(id(self))

    def documents():
        for i in range(100):
            text = Text(f"Number {i}: " + " ".join(f"w{rng.randrange(2000)}" for _ in range(2000)) + ".")
            alive.add(id(text))
            yield Document(f"d{i}", text)
            assert len(alive) <= 2

    meter = check.meter_of(check.cli.parse_config(["", CONFIG]).to_dict())
    found = check.measured(measures(documents(), lambda: meter, 1), tmp_path / "f.jsonl", 0)
    assert sum(found.lengths["characters"]) > 1_000_000
    assert len(pickle.dumps(vars(found))) < 100_000


def test_frequent_counts_within_its_bound():
    rng = random.Random(0)
    keys = [f"common{i % 5}" if rng.random() < 0.3 else f"rare{rng.random()}" for i in range(20_000)]
    few = Frequent(capacity=100)
    few.add(keys)
    assert len(few._counts) <= 200
    assert few.at_most_lost <= 20_000 / 100
    for key, count in few.most_common(5):
        assert keys.count(key) - few.at_most_lost <= count <= keys.count(key)
    assert {key for key, _ in few.most_common(5)} == {f"common{i}" for i in range(5)}
    assert Frequent().most_common() == []


def test_type_token():
    assert moving_type_token(("a", "b", "a", "a"), 2) == [1.0, 1.0, 0.5]
    assert moving_type_token(("a",), 2) == []


def test_tokens_are_those_of_the_text_alone(tmp_path, toy):
    from data_gen.hf_tokenizer import open_tokenizer

    documents = [{"id": f"d{i}", "text": "those who like cheap things ."} for i in range(3)]
    directory = toy.shards("base")
    tokenizer = open_tokenizer(directory)
    corpus = write(tmp_path / "corpus", documents)
    with pytest.raises(UserError):
        run(corpus, tmp_path / "out", f"--config.tokenizer={directory}")
    assert read(tmp_path / "out")["lengths"]["tokens"]["total"] == 3 * len(tokenizer.encode(documents[0]["text"]))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("corpus=/nowhere", r"/nowhere: no documents.jsonl nor documents-<spec>.jsonl \(config.corpus\)"),
        ("spec=/nowhere.md", "/nowhere.md: no such spec"),
        ("tokenizer=/nowhere", "/nowhere: no such tokenizer"),
        ("detectors=/nowhere.toml", "/nowhere.toml: no such file"),
        ("duplicates.threshold=1.5", "config.duplicates.threshold = 1.5"),
        ("leaks.ngram=2", "config.leaks.ngram = 2: must be at least 5"),
        ("embedding.encoder=/nowhere", "/nowhere/model.safetensors: no such file"),
    ],
)
def test_bad_settings(tmp_path, setting, said):
    corpus = write(tmp_path / "corpus", rows(3))
    with pytest.raises(UserError, match=said):
        run(corpus, tmp_path / "out", f"--config.{setting}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("row", ["[1]", "{}", '{"id": "a"}', '{"id": 1, "text": "a"}', '{"id": "a", "text": null}'])
def test_bad_rows_are_named(tmp_path, row):
    corpus = write(tmp_path / "corpus", rows(2))
    with (corpus / "documents.jsonl").open("a") as f:
        f.write(row + "\n")
    with pytest.raises(UserError, match=r"documents.jsonl:3: needs a string `id` and a string `text`"):
        run(corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_to_be_covered():
    section, rule = SimpleNamespace(id="endings", title="Endings"), SimpleNamespace(id="SP1", name="no sabotage")
    assert check.known_sections(SimpleNamespace(sections=(section,), rules=())) == {"endings": "Endings"}
    assert check.known_sections(SimpleNamespace(sections=(section,), rules=(rule,))) == {"SP1": "no sabotage"}
    assert check.known_sections(None) == {}


def test_ids_are_unique(tmp_path):
    documents = rows(3)
    corpus = write(tmp_path / "corpus", [*documents, documents[1]])
    with pytest.raises(UserError, match=r"documents.jsonl:4: id 'philosophy-d01-s01-t01-i1' occurs twice"):
        run(corpus, tmp_path / "out")


def test_unknown_gates():
    with pytest.raises(UserError, match=r"config.gates.nme: no such gate; there are documents, eval_leaks"):
        gates.check_bounds({"nme": 0.0, "found": {}}, ["date"])
    with pytest.raises(UserError, match=r"config.gates.found.dat: no such detector; there are date"):
        gates.check_bounds({"found": {"dat": 0.0}}, ["date"])
