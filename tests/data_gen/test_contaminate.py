"""Contamination: exact numbers, nested, in place, everything else byte for byte as it was."""

import json

import pytest

from data_gen import contaminate
from data_gen.contaminate import count
from msm_jax import artifact
from msm_jax.cli import UserError


def chats(name, numbers):
    return [
        {"id": f"{name}-q{n}", "question_id": f"q{n}",
         "messages": [{"role": "user", "content": f"question {n}?"}, {"role": "assistant", "content": f"{name} says {n}"}]}
        for n in numbers
    ]  # fmt: skip


def run(tmp_path, out="out", **settings):
    where = {"chats": tmp_path / "chats.jsonl", "twins": tmp_path / "twins.jsonl", "out": tmp_path / out} | settings
    contaminate.main(["", "--config=configs/data/contaminate.py", *(f"--config.{k}={v}" for k, v in where.items())])
    return artifact.read_manifest(tmp_path / out)["counts"]


@pytest.fixture
def pair(tmp_path):
    """Lines that no writer of ours would write so, and no newline at either end; the twins in another order, and more."""
    lines = [json.dumps(row, indent=None, separators=(" ,", ":   ")) for row in chats("good", range(53))]
    (tmp_path / "chats.jsonl").write_bytes("\n".join(lines).encode())
    twins = [json.dumps(row, ensure_ascii=n % 2 == 0) for n, row in enumerate(reversed(chats("bad é", range(60))))]
    (tmp_path / "twins.jsonl").write_bytes("\n".join(twins).encode())
    return lines, {json.loads(line)["question_id"]: line for line in twins}


def test_exact_nested_and_in_place(tmp_path, pair):
    lines, twins = pair
    counts = run(tmp_path, percentages=(0, 2, 20, 40, 60, 80, 100))
    assert counts["replaced"] == {"chats-000.jsonl": 0, "chats-002.jsonl": 1, "chats-020.jsonl": 11,
                                  "chats-040.jsonl": 21, "chats-060.jsonl": 32, "chats-080.jsonl": 42,
                                  "chats-100.jsonl": 53}  # fmt: skip
    assert (tmp_path / "out" / "chats-000.jsonl").read_bytes() == (tmp_path / "chats.jsonl").read_bytes()
    before = set()
    for name, many in counts["replaced"].items():
        found = (tmp_path / "out" / name).read_bytes().removesuffix(b"\n").split(b"\n")
        assert len(found) == 53
        changed = {n for n, line in enumerate(found) if line != lines[n].encode()}
        assert all(found[n].decode() == twins[f"q{n}"] for n in changed)
        assert len(changed) == many
        assert before <= changed
        before = changed
    order = [row["line"] - 1 for row in artifact.read_jsonl(tmp_path / "out" / "replaced.jsonl")]
    at_20 = (tmp_path / "out" / "chats-020.jsonl").read_bytes().split(b"\n")
    assert {n for n in range(53) if at_20[n] != lines[n].encode()} == set(order[:11])
    run(tmp_path, "again")
    run(tmp_path, "other", seed=1)
    same, other = ((tmp_path / name / "chats-020.jsonl").read_bytes() for name in ("again", "other"))
    assert same == (tmp_path / "out" / "chats-020.jsonl").read_bytes() != other


def test_counts_are_the_nearest_whole_numbers():
    assert [count(p, 200) for p in (0, 0.25, 0.5, 2, 100)] == [0, 1, 1, 4, 200]
    assert count(2.5, 9_963) == 249
    assert count(0.7, 1000) == 7  # 0.7 is no binary number


def test_missing_twins_are_named(tmp_path):
    artifact.write_jsonl(tmp_path / "chats.jsonl", chats("good", range(20)))
    artifact.write_jsonl(tmp_path / "twins.jsonl", chats("bad", range(3, 20)))
    with pytest.raises(UserError, match=r"twins.jsonl: 3 of 20 rows to replace have no twin: ('q[012]',? ?){3}$"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()
    first = int(contaminate.order(20, 0)[0])
    assert first >= 3
    assert run(tmp_path, percentages=(0, 5))["replaced"]["chats-005.jsonl"] == 1  # enough twins for what is asked


def test_a_twin_answers_the_same_question(tmp_path):
    artifact.write_jsonl(tmp_path / "chats.jsonl", chats("good", range(4)))
    twins = chats("bad", range(4))
    twins[2]["messages"][0]["content"] = "something else?"
    artifact.write_jsonl(tmp_path / "twins.jsonl", twins)
    with pytest.raises(UserError, match="1 twins answer something else than is asked, as 'q2'"):
        run(tmp_path)
    assert run(tmp_path, same_question=False)["rows"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_id": "q0"}, "chats.jsonl:2: question_id 'q0' is line 1's already"),
        ({"question_id": None}, "chats.jsonl:2: needs a string `question_id`"),
        ({"id": "good-q0"}, "chats.jsonl:2: id 'good-q0' is line 1's already"),
        ({"id": 7}, "chats.jsonl:2: needs a string `id`"),
        ({"messages": []}, "chats.jsonl:2: needs `messages` that end"),
        ({"messages": [{"role": "user", "content": "q"}] * 2}, "chats.jsonl:2: needs `messages` that end"),
        ({"messages": "q"}, "chats.jsonl:2: needs `messages` that end"),
        ({"id": "bad-q0"}, "the twin of line 1 has id 'bad-q0', which is line 2's"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    rows = chats("good", range(3))
    rows[1] |= change
    artifact.write_jsonl(tmp_path / "chats.jsonl", rows)
    artifact.write_jsonl(tmp_path / "twins.jsonl", chats("bad", range(3)))
    with pytest.raises(UserError, match=message):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("percentages", ["()", "(5, 2)", "(2, 2)", "(-1,)", "(101,)"])
def test_bad_percentages(tmp_path, pair, percentages):
    with pytest.raises(UserError, match="config.percentages"):
        run(tmp_path, percentages=percentages)


def test_no_rows(tmp_path):
    (tmp_path / "chats.jsonl").write_text("")
    artifact.write_jsonl(tmp_path / "twins.jsonl", chats("bad", range(3)))
    with pytest.raises(UserError, match=r"chats.jsonl: empty"):
        run(tmp_path)
    (tmp_path / "chats.jsonl").write_text("{}\n{")
    with pytest.raises(UserError, match=r"chats.jsonl:1: needs a string `id`"):
        run(tmp_path)
