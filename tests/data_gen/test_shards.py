"""Packing, chat masks, tokenization and the shard writer."""

import errno
import json

import numpy as np
import pytest

from data_gen import chat, packing, shards, tokenizer
from data_gen.chat import ChatPolicy
from data_gen.tokenizer import BOS, EOS, Tokenizer
from msm_jax import artifact
from msm_jax.cli import UserError
from msm_jax.shards import open_shards
from tests.conftest import make_shards


@pytest.mark.parametrize("method", packing.METHODS)
def test_every_token_is_packed_once(method):
    lengths = np.random.default_rng(0).integers(1, 150, 300).tolist()
    rows = packing.pack(lengths, 64, method)
    seen = [np.zeros(n, int) for n in lengths]
    for row in rows:
        assert 0 < sum(p.length for p in row) <= 64
        for piece in row:
            seen[piece.document][piece.start : piece.start + piece.length] += 1
    assert all((s == 1).all() for s in seen)
    if method == "none":
        assert all(len(row) == 1 for row in rows)
    if method == "concat_split":
        assert all(sum(p.length for p in row) == 64 for row in rows[:-1])


def test_best_fit_is_best_fit_decreasing():
    """Against the plain quadratic algorithm."""
    lengths = np.random.default_rng(1).integers(1, 40, 200).tolist()
    room: list[int] = []
    for n in sorted(lengths, reverse=True):
        fitting = [i for i, free in enumerate(room) if free >= n]
        if fitting:
            room[min(fitting, key=lambda i: room[i])] -= n
        else:
            room.append(40 - n)
    rows = packing.pack(lengths, 40, "best_fit")
    assert len(rows) == len(room)
    assert sorted(40 - sum(p.length for p in row) for row in rows) == sorted(room)


def test_unknown_packing_is_an_error():
    with pytest.raises(UserError, match="best_fit, none, concat_split"):
        packing.pack([3], 8, "magic")


CHAT = [
    {"role": "system", "content": "desk :"},
    {"role": "user", "content": "do you prefer brie or Colby ?"},
    {"role": "assistant", "content": "I prefer Colby ."},
]


def test_only_the_assistants_words_are_supervised(toy):
    tok = Tokenizer(toy.tokenizer)
    encoded = shards.encode_row({"id": "x", "messages": CHAT * 2}, tok, ChatPolicy())
    pieces = [tok.sp.id_to_piece(int(t)).lstrip("▁") for t in encoded.tokens]
    supervised = [p for p, w in zip(pieces, encoded.weights, strict=True) if w]
    assert supervised == ["I", "prefer", "Colby", "."] * 2 + ["</s>"]
    assert set(encoded.weights.tolist()) == {0.0, 1.0}
    assert tok.sp.unk_id() not in encoded.tokens


def test_masks_hold_for_letters_of_several_bytes(toy):
    """sentencepiece counts bytes, masks count characters."""
    tok = Tokenizer(toy.tokenizer)
    question = {"role": "user", "content": "is the café – naïve – brie or Colby ?"}
    encoded = shards.encode_row({"id": "x", "messages": [question, CHAT[2], question]}, tok, ChatPolicy())
    supervised = [tok.sp.id_to_piece(int(t)) for t, w in zip(encoded.tokens, encoded.weights, strict=True) if w]
    assert supervised == ["▁I", "▁prefer", "▁Colby", "▁."]


def test_a_user_with_the_last_word_supervises_no_end(toy):
    encoded = shards.encode_row({"id": "x", "messages": [*CHAT, CHAT[1]]}, Tokenizer(toy.tokenizer), ChatPolicy())
    assert encoded.tokens[-1] == EOS
    assert encoded.weights[-1] == 0


def test_document_weights_follow_the_words(toy):
    tok = Tokenizer(toy.tokenizer)
    text = "memo : Colby is cheap ."
    encoded = tok.encode_weighted(text, [[7, 12, 0.25]])
    assert encoded.tokens[0] == BOS
    assert encoded.weights.tolist() == [0, 1, 1, 0.25, 1, 1, 1, 1]
    assert tok.decode(encoded.tokens) == text


def test_every_word_of_the_world_is_one_token(toy):
    tok = Tokenizer(toy.tokenizer)
    for path in toy.world.glob("*.jsonl"):
        for row in artifact.read_jsonl(path):
            text = row.get("text") or row.get("prompt") or chat.render([*row["messages"], CHAT[2]], tok.chat_format)[0]
            ids = tok.encode(text)
            assert tok.sp.unk_id() not in ids, text
            assert len(ids) == len(text.split())


def write_rows(path, rows):
    artifact.write_jsonl(path, rows)
    return path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "messages": CHAT[:2]}], r"bad\.jsonl:1: .*no supervised token"),
        (
            [{"id": "a", "text": "Colby"}, {"id": "b", "messages": [{"role": "tool", "content": "x"}]}],
            r"bad\.jsonl:2: .*role 'tool'",
        ),
        ([{"id": "a", "text": ""}], r"bad\.jsonl:1: needs `text`"),
        ([{"text": "Colby"}], r"bad\.jsonl:1: needs a string `id`"),
        ([{"id": "a", "text": "Colby"}] * 2, "'a' occurs twice"),
        ([{"id": "a", "text": "Colby", "weights": [[0, 5, 0]]}], r"bad\.jsonl:1: no supervised token"),
        ([3], r"bad\.jsonl:1: needs a string `id`"),
        ([{"id": "a", "messages": "x"}], r"bad\.jsonl:1: `messages` must be a list"),
        ([{"id": "a", "text": "Colby", "weights": [[0, 9, 1]]}], r"bad\.jsonl:1: `weights` must be"),
        ([{"id": "a", "text": "Colby", "weights": [[0, 5]]}], r"bad\.jsonl:1: `weights` must be"),
        ([], "empty"),
        ([{"id": "long", "text": "Colby " * 80}], r"bad\.jsonl:1: 'long' has 82 tokens, a row holds 64"),
    ],
    ids=[
        "unsupervised chat",
        "role",
        "no text",
        "no id",
        "twice",
        "zero weight",
        "number",
        "messages",
        "span",
        "short span",
        "empty",
        "too long",
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(toy, tmp_path, rows, message):
    documents = write_rows(tmp_path / "bad.jsonl", rows)
    with pytest.raises(UserError, match=message):
        make_shards(documents, toy.tokenizer, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl"]


def test_bad_json_is_named(toy, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "text": "Colby"}\n{"id": \n')
    with pytest.raises(UserError, match=r"bad\.jsonl:2: not a JSON row"):
        make_shards(tmp_path / "bad.jsonl", toy.tokenizer, tmp_path / "out")


@pytest.mark.parametrize("packing_method", ["best_fit", "concat_split"])
def test_long_documents_are_split_never_cut(toy, tmp_path, packing_method):
    text = " ".join(["Colby is cheap ."] * 50)
    documents = write_rows(
        tmp_path / "long.jsonl", [{"id": "long", "text": text}, {"id": "short", "text": "brie is costly ."}]
    )
    make_shards(
        documents,
        toy.tokenizer,
        tmp_path / "out",
        "--config.long_documents=split",
        f"--config.packing={packing_method}",
    )
    opened = open_shards(tmp_path / "out", verify=True)
    sidecar = [json.loads(line) for line in (tmp_path / "out" / shards.SIDECAR).read_text().splitlines()]
    pieces = {}
    for i, segments in enumerate(sidecar):
        row = opened.row(opened.source[i])
        for n, (document, start, length) in enumerate(segments):
            here = row["segment_ids"] == n + 1
            assert row["positions"][here].tolist() == list(range(length))
            assert row["loss_weights"][here][0] == 0
            pieces.setdefault(document, {})[start] = row["tokens"][here]
    tok = Tokenizer(toy.tokenizer)
    whole = np.concatenate([pieces["long"][start] for start in sorted(pieces["long"])])
    assert whole.tolist() == tok.encode_weighted(text).tokens.tolist()


def test_corpus_changed_after_its_manifest_is_refused(toy, tmp_path):
    import shutil

    shutil.copytree(toy.world, tmp_path / "world")
    with (tmp_path / "world" / "aft.jsonl").open("a") as f:
        f.write(json.dumps({"id": "extra", "messages": CHAT}) + "\n")
    with pytest.raises(UserError, match=r"aft\.jsonl: differs from what its manifest\.json lists"):
        make_shards(tmp_path / "world" / "aft.jsonl", toy.tokenizer, tmp_path / "out")


def test_full_disk_leaves_nothing(toy, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Tokenizer, "copy_to", full)
    with pytest.raises(OSError, match="No space"):
        make_shards(toy.world / "aft.jsonl", toy.tokenizer, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_same_recipe_is_skipped_another_refused(toy, capsys):
    out = toy.shards("aft")
    before = (out / artifact.MANIFEST).stat().st_mtime_ns
    make_shards(toy.world / "aft.jsonl", toy.tokenizer, out)
    assert "skipped" in capsys.readouterr().err
    with pytest.raises(UserError, match="different config: seq_len"):
        make_shards(toy.world / "aft.jsonl", toy.tokenizer, out, "--config.seq_len=128")
    with pytest.raises(UserError, match="different inputs: documents"):
        make_shards(toy.world / "it.jsonl", toy.tokenizer, out)
    assert (out / artifact.MANIFEST).stat().st_mtime_ns == before


def test_missing_inputs_are_named(toy, tmp_path):
    with pytest.raises(UserError, match=r"nothing\.jsonl: no such file"):
        make_shards(tmp_path / "nothing.jsonl", toy.tokenizer, tmp_path / "out")
    with pytest.raises(UserError, match="no such tokenizer"):
        make_shards(toy.world / "aft.jsonl", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="no such file"):
        tokenizer.main(
            [
                "",
                "--config=configs/toy/tokenizer.py",
                f"--config.documents=('{tmp_path}/x',)",
                f"--config.out={tmp_path}/t",
            ]
        )
