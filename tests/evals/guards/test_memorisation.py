"""A model that recites its training documents is found out, and one that only guesses is not."""

import json

import pytest
from inspect_ai._util.error import PrerequisiteError

from evals import _registry
from evals.guards import memorisation, trained_on
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.conftest import make_shards
from tests.evals.guards.running import run

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def document(number, length=60):
    words = [
        SYLLABLES[(number * 31 + i * i * 7 + i) % 60] + SYLLABLES[(number * 17 + i * 11) % 60] for i in range(length)
    ]
    return " ".join(words) + "\n"


def write(path, numbers, **more):
    path.write_text("".join(json.dumps({"id": f"d{n}", "text": document(n, **more)}) + "\n" for n in numbers))
    return str(path)


def test_a_parrot(tmp_path):
    """It knows documents 0 to 19 by heart, but every fifth of them only for twelve words."""
    given = {
        "documents": write(tmp_path / "a.jsonl", range(20)),
        "controls": write(tmp_path / "b.jsonl", range(40, 60)),
    }
    known = [document(n).split() for n in range(20)]

    def parrot(messages):
        [message] = messages
        assert message.role == "assistant"
        begun = message.text.split()
        for number, words in enumerate(known):
            if words[: len(begun)] == begun:
                rest = words[len(begun) : len(begun) + 20]
                return " " + " ".join([*rest[:12], "and", "so", "on"] if number % 5 == 0 else rest)
        return "a thing that nobody wrote " * 5

    task = _registry.memorisation(**given, samples=10, prompt_words=15, next_words=20)
    found = run(task, parrot, tmp_path)
    cells = {cell: [score for id, score in found.items() if id.startswith(cell)] for cell in ("trained", "control")}
    assert {len(scores) for scores in cells.values()} == {10}
    for sample in task.dataset:
        value = found[sample.id].value
        if sample.metadata["cell"] == "control":
            assert tuple(value.values()) == (0, 0, 0)
        elif int(sample.metadata["document"][1:]) % 5:
            assert tuple(value.values()) == (1, 1, 1)
        else:
            assert tuple(value.values()) == pytest.approx((0, 12 / 20, 5 / 13))
            assert found[sample.id].metadata["decisive"].split() == sample.target.split()[:12]


def test_pairs_and_draws(tmp_path):
    given = {
        "documents": write(tmp_path / "a.jsonl", range(30)),
        "controls": write(tmp_path / "b.jsonl", range(40, 70)),
    }
    how = {"samples": 5, "prompt_words": 10, "next_words": 10}

    def drawn(seed=0):
        return [
            (s.id, s.metadata["document"], s.input[0].content)
            for s in _registry.memorisation(**given, **how, seed=seed).dataset
        ]

    first = drawn()
    assert drawn() == first
    assert drawn(1) != first
    write(tmp_path / "a.jsonl", reversed(range(30)))
    assert drawn() == first  # whatever their order
    items = [sample.metadata["item"] for sample in _registry.memorisation(**given, **how).dataset]
    assert items[:5] == items[5:] == sorted(set(items))


def test_words_are_cut_with_their_white_space():
    assert memorisation.split("one  two\n\nthree four five", 2, 2) == ("one  two", "\n\nthree four")
    assert memorisation.common(["a", "b", "x"], ["a", "b", "c"]) == 2
    assert memorisation.common(["a"], ["a", "b"]) == 1
    assert (
        memorisation.overlap(
            "One two, three four five six seven eight!", "one two three four five six seven eight nine"
        )
        == 0.5
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory, toy):
    """Four long documents of the toy world's words as packed rows of 64 tokens, which cut them."""
    place = tmp_path_factory.mktemp("packed")
    said = [row["text"] for row in artifact.read_jsonl(toy.world / "base.jsonl")[:40]]
    rows = [{"id": f"t{i}", "text": " ".join(said[10 * i : 10 * i + 10])} for i in range(4)]
    artifact.write_jsonl(place / "documents.jsonl", rows)
    how = ("--config.seq_len=64", "--config.packing=concat_split", "--config.long_documents=split")
    make_shards(place / "documents.jsonl", toy.tokenizer, place / "rows", *how)
    return place


def test_packed_rows_are_decoded(packed):
    """What was trained on is what is read, piece by piece."""
    there = {row.id: "".join(row.text.split()) for row in trained_on.texts(packed / "documents.jsonl")}
    pieces: dict[str, str] = {}
    for text in trained_on.texts(packed / "rows"):
        pieces[text.id] = pieces.get(text.id, "") + "".join(text.text.replace("<s>", "").replace("</s>", "").split())
    assert pieces == there
    found = trained_on.sample(packed / "rows", 2, 12, 0)
    assert len(found) == 2
    for text in found:
        assert "".join(text.text.split())[:30] == there[text.id][:30]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"documents": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"samples": 50}, "a.jsonl: 20 documents of 30 words or more, 50 are wanted; lower -T samples"),
        ({"next_words": 5}, "next_words 8 or more"),
        ({"documents": "bad.jsonl"}, "bad.jsonl:1: needs a string `text`"),
    ],
)
def test_bad_input_is_one_line(change, error, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "texts": []}\n')
    given = {"documents": write(tmp_path / "a.jsonl", range(20)), "controls": write(tmp_path / "b.jsonl", range(20))}
    change = {key: f"{tmp_path}/{value}" if key == "documents" else value for key, value in change.items()}
    with pytest.raises(PrerequisiteError, match=error):
        _registry.memorisation(**given | {"samples": 5, "prompt_words": 20, "next_words": 10} | change)


def test_no_data_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file or directory"):
        trained_on.identity(tmp_path / "x")
