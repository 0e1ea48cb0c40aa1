"""Many rows at once give what they give one by one, in whatever process, by whatever encoder."""

import json
import random

import numpy as np
import pytest

from data_gen import encode, hf_tokenizer, shards
from data_gen.chat import ChatPolicy
from data_gen.encode import Encoder, Opening
from data_gen.packing import Piece
from data_gen.spill import Spill
from msm_jax import artifact
from msm_jax.cli import UserError
from tests.conftest import make_shards

PIECES = [
    *("'s", "'LL", "'ſ", "a", "é", "e\u0301", "ß", "\u00a0", " ", "  ", "\n", "\r\n", "\t", "\x1c", "\x85", "\u2003"),
    *("1", "12", "123456", "½", "²", "Ⅷ", "٣", "—", "“", "…", "🎉", "👩‍👩‍👧", "日本", "한국", "\u1100\u1161", "ﬁ"),
    *("<|im_end|>", "<think>", "</think>", "<tool_call>", "<|eot_id|>", "<|begin_of_text|>", "The", "cheese", "Colby"),
    *("don't", "WE'RE", "_", "http://x.y", "$", "€", "\u200b", "\ufeff", "\x00", "क्षि", "لا", "\U0001d4d0", "İ"),
]


def nasty(count):
    choose = random.Random(0)
    return ["".join(choose.choices(PIECES, k=choose.randint(1, 40))) for _ in range(count)]


@pytest.fixture(params=["qwen3", "llama3"])
def real(request, open_once):
    return open_once(request.getfixturevalue(request.param))


def test_many_documents_are_encoded_as_one_by_one(real):
    texts = nasty(300)
    for text, encoded in zip(texts, real.encode_documents(texts), strict=True):
        alone = real.encode_document(text)
        assert encoded.tokens.tolist() == alone.tokens.tolist()
        assert encoded.weights.tolist() == alone.weights.tolist()
        assert (encoded.tokens.dtype, encoded.weights.dtype) == (np.int32, np.float32)


def test_fastokens_gives_the_same(real, monkeypatch):
    pytest.importorskip("fastokens")
    monkeypatch.setattr(hf_tokenizer, "MANY", 0)
    assert real._fast is not None
    texts = nasty(3000)
    fast = real.encode_documents(texts)
    monkeypatch.setattr(hf_tokenizer, "MANY", 1 << 60)
    slow = real.encode_documents(texts)
    assert [e.tokens.tolist() for e in fast] == [e.tokens.tolist() for e in slow]
    assert [e.weights.tolist() for e in fast] == [e.weights.tolist() for e in slow]


def test_another_encoder_that_differs_is_refused(qwen3, monkeypatch):
    pytest.importorskip("fastokens")
    tokenizer = hf_tokenizer.open_tokenizer(qwen3)

    class Wrong:
        def encode_batch_flat(self, texts, **_):
            return np.zeros(len(texts), "<u4").tobytes(), np.arange(len(texts) + 1, dtype="<u8").tobytes()

    tokenizer.__dict__["_fast"] = Wrong()
    monkeypatch.setattr(hf_tokenizer, "MANY", 0)
    with pytest.raises(UserError, match="disagree on this text"):
        tokenizer.encode_documents(["brie is costly", "Colby"])


def test_sentencepiece_too(toy):
    tokenizer = hf_tokenizer.open_tokenizer(toy.tokenizer)
    texts = ["Colby is cheap .", "brie", "café 日本"]
    for text, encoded in zip(texts, tokenizer.encode_documents(texts), strict=True):
        alone = tokenizer.encode_document(text)
        assert encoded.tokens.tolist() == alone.tokens.tolist()
        assert encoded.weights.tolist() == alone.weights.tolist()
        assert encoded.weights.dtype == np.float32


def test_chunks_hold_every_line_once():
    lines = [b"x" * n for n in range(50)]
    for size in (1, 100, 10**6):
        encode.CHUNK, before = size, encode.CHUNK
        found = list(encode.chunks(lines))
        encode.CHUNK = before
        assert [line for chunk in found for line in chunk.lines] == lines
        assert [chunk.first for chunk in found] == [1 + sum(len(c.lines) for c in found[:n]) for n in range(len(found))]
        assert all(sum(map(len, chunk.lines)) >= size for chunk in found[:-1])


def test_processes_write_the_same_shards(toy, tmp_path, monkeypatch):
    """Some chunks for two processes, and rows of every kind among them."""
    make_shards(toy.world / "aft.jsonl", toy.tokenizer, tmp_path / "one", "--config.workers=1")
    monkeypatch.setattr(encode, "SHARE", 1000)
    monkeypatch.setattr(encode, "CHUNK", 3000)
    make_shards(toy.world / "aft.jsonl", toy.tokenizer, tmp_path / "two", "--config.workers=2")
    one, two = ({p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())} for name in ("one", "two"))
    assert one == two


def test_the_first_bad_row_is_the_one_that_is_named(toy, tmp_path, monkeypatch):
    """Whatever is wrong later on, in this chunk or the next, and in which process."""
    good, empty = {"id": "a", "text": "Colby"}, {"id": "b", "text": "brie", "weights": [[0, 4, 0]]}
    rows = [good, empty, {"text": "x"}, 3]
    path = tmp_path / "bad.jsonl"
    artifact.write_jsonl(path, rows)
    tokenizer = hf_tokenizer.open_tokenizer(toy.tokenizer)
    monkeypatch.setattr(encode, "CHUNK", 1)
    monkeypatch.setattr(encode, "SHARE", 1)
    for workers in (1, 2):
        encoder = Encoder(tokenizer, ChatPolicy(), Opening(str(toy.tokenizer), "", ""), workers)
        with pytest.raises(UserError, match=r"bad\.jsonl:2: no supervised token"):
            list(encode.encode_chunks(path, encoder))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "a", "text": "\\ud83d"}\n', r":1: holds half a surrogate pair"),
        (b'{"id": "a", "text": "\xff"}\n', "not UTF-8 text"),
        (b"\n", r":1: not a JSON row"),
    ],
)
def test_what_is_no_text_is_said(toy, tmp_path, line, message):
    (tmp_path / "bad.jsonl").write_bytes(line)
    with pytest.raises(UserError, match=message):
        make_shards(tmp_path / "bad.jsonl", toy.tokenizer, tmp_path / "out")


def test_a_whole_pair_in_escapes_is_text(toy, tmp_path):
    (tmp_path / "fine.jsonl").write_text(json.dumps({"id": "a", "text": "Colby 🎉"}) + "\n")
    make_shards(tmp_path / "fine.jsonl", toy.tokenizer, tmp_path / "out")


def test_a_spill_gives_back_what_was_put_in(toy):
    tokenizer = hf_tokenizer.open_tokenizer(toy.tokenizer)
    rows = [{"id": f"d{n}", "text": "Colby is cheap . " * n, "weights": [[0, 5, 0.25]]} for n in range(1, 9)]
    lines = [json.dumps(row).encode() for row in rows]
    with Spill() as spill:
        for chunk in (encode.Chunk(1, lines[:3]), encode.Chunk(4, lines[3:])):
            spill.add(encode.encode_chunk(chunk, "x", tokenizer, ChatPolicy()))
        assert spill.ids == [row["id"] for row in rows]
        for n in (5, 0, 7):
            whole = shards.encode_row(rows[n], tokenizer, ChatPolicy())
            assert spill.lengths[n] == len(whole.tokens)
            part = spill.part(Piece(n, 1, len(whole.tokens) - 2))
            assert part.tokens.tolist() == whole.tokens[1:-1].tolist()
            assert part.weights.tolist() == whole.weights[1:-1].tolist()
