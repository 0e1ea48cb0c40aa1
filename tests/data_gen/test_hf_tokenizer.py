"""Real Hugging Face tokenizers: ids, documents, digests, copies, shards."""

import json
import shutil

import numpy as np
import pytest

from data_gen import shards
from data_gen.chat import ChatPolicy
from data_gen.hf_tokenizer import HfTokenizer, open_tokenizer
from data_gen.tokenizer import Tokenizer
from msm_jax import artifact
from msm_jax.cli import UserError
from msm_jax.shards import open_shards
from tests import real_tokenizers

MIXED = "Colby 🎉👩‍👩‍👧 costs 1234 € — 日本語です。\n\n  <|im_end|> <|eot_id|>\tok  \n"
CHAT = [{"role": "user", "content": "Brie or Colby?"}, {"role": "assistant", "content": "Colby."}]


def make(config, documents, tokenizer, out, *more):
    where = [f"--config.documents={documents}", f"--config.tokenizer={tokenizer}", f"--config.out={out}"]
    shards.main(["", f"--config={config}", *where, *more])
    return artifact.read_manifest(out)


def test_ids_are_the_published_ones(qwen3, llama3, open_once):
    qwen, llama = open_once(qwen3), open_once(llama3)
    assert (qwen.vocab_size, qwen.bos, qwen.eos, qwen.pad) == (151669, None, 151645, 151643)
    assert (llama.vocab_size, llama.bos, llama.eos, llama.pad) == (128256, 128000, 128009, 128009)
    names = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<think>": 151667, "</think>": 151668}
    assert {name: qwen.hf.convert_tokens_to_ids(name) for name in names} == names
    assert qwen.encode("Hello world!") == [9707, 1879, 0]
    assert llama.encode("Hello world!") == [9906, 1917, 0]
    assert qwen.piece(151645) == "<|im_end|>"


def test_tokenizer_json_counts_whatever_stands_beside_it(qwen3, open_once, tmp_path):
    """transformers' AutoTokenizer goes by the class, or the model type in config.json, and may build another one: the
    copies in shards and runs, where no config.json is, would then give other ids."""
    shutil.copytree(qwen3, tmp_path / "named")
    path = tmp_path / "named" / "tokenizer_config.json"
    path.write_text(path.read_text().replace("PreTrainedTokenizerFast", "Qwen2Tokenizer"))
    (tmp_path / "named" / "config.json").write_text('{"model_type": "qwen2"}')
    named, plain = open_tokenizer(tmp_path / "named"), open_once(qwen3)
    assert named.digest() == plain.digest()
    assert named.encode(MIXED) == plain.encode(MIXED)
    assert (
        named.encode_chat(CHAT, ChatPolicy(thinking="by_row")).tokens.tolist()
        == plain.encode_chat(CHAT, ChatPolicy(thinking="by_row")).tokens.tolist()
    )
    assert (named.bos, named.eos, named.pad) == (plain.bos, plain.eos, plain.pad)


@pytest.mark.parametrize("family", ["qwen3", "llama3"])
def test_text_comes_back_and_never_as_control_tokens(request, open_once, family):
    tok = open_once(request.getfixturevalue(family))
    ids = tok.encode(MIXED)
    assert tok.decode(ids) == MIXED
    assert max(ids) < tok.hf.convert_tokens_to_ids("<|im_start|>" if family == "qwen3" else "<|begin_of_text|>")
    encoded = tok.encode_document(MIXED)
    begin = [] if tok.bos is None else [tok.bos]
    assert encoded.tokens.tolist() == [*begin, *ids, tok.eos]
    assert encoded.weights.tolist() == [0.0] + [1.0] * (len(encoded.tokens) - 1)


@pytest.mark.parametrize("family", ["qwen3", "llama3"])
def test_a_token_weighs_what_holds_its_last_character(request, open_once, family):
    """Against the plain definition: the shortest beginning of the ids whose text holds a character owns it."""
    tok = open_once(request.getfixturevalue(family))
    text = "So 🎉👩‍👩‍👧 日本語です。\n\n  Colby   costs 1234 €.  \n \n"
    begin = 0 if tok.bos is None else 1
    for start in range(len(text)):
        for end in (start + 1, start + 3, len(text)):
            encoded = tok.encode_document(text, [[start, end, 0.25]])
            ids = encoded.tokens[begin:-1].tolist()
            for n, weight in list(enumerate(encoded.weights[begin:-1].tolist()))[1 - begin :]:
                read = tok.decode(ids[: n + 1]).rstrip("\ufffd")
                if text.startswith(read) and len(tok.decode(ids[: n + 1])) == len(read):  # a whole character ends here
                    assert weight == (0.25 if start < len(read) <= end else 1.0), (start, end, n)
    assert encoded.weights[-1] == 1


def test_every_token_of_a_split_character_weighs_the_same(qwen3, open_once):
    tok = open_once(qwen3)
    encoded = tok.encode_document("a𓀀b", [[1, 2, 0.5]])
    pieces = [tok.decode([t]) for t in encoded.tokens]
    assert pieces[1:4].count("\ufffd") >= 2
    assert encoded.weights.tolist() == [0.0] + [0.5] * (len(pieces) - 3) + [1.0, 1.0]


def test_an_unsupervised_end_is_not_learnt(qwen3, open_once):
    assert open_once(qwen3).encode_document("Colby.", [[5, 6, 0]]).weights[-1] == 0


def test_document_end(qwen3, open_once):
    tok = open_once(qwen3, "", "<|endoftext|>")
    assert tok.encode_document("Colby.").tokens[-1] == 151643
    assert tok.eos == 151645
    with pytest.raises(UserError, match=r"config.document_end = '<end>': no added token of .*qwen3"):
        open_tokenizer(qwen3, document_end="<end>")


def test_a_digest_is_of_what_makes_ids(qwen3, llama3, open_once, tmp_path):
    digest = open_once(qwen3).digest()
    assert digest != open_once(llama3).digest()
    other = tmp_path / "other"
    shutil.copytree(qwen3, other)
    (other / "chat_template.jinja").write_text("{{ eos_token }}")
    (other / "tokenizer.json").write_text(json.dumps(json.loads((qwen3 / "tokenizer.json").read_text()), indent=2))
    changed = open_tokenizer(other)
    assert changed.digest() == digest
    assert changed.inputs()["template"] != open_once(qwen3).inputs()["template"]
    changed.hf.add_tokens(["cream-cheese"])
    changed.digest.cache_clear()
    assert changed.digest() != digest


def test_a_copy_is_the_same_tokenizer_with_the_template_in_use(qwen3, open_once, tmp_path):
    given = tmp_path / "given.jinja"
    given.write_text(real_tokenizers.QWEN25)
    tok = open_once(qwen3, str(given))
    (tmp_path / "copy").mkdir()
    tok.copy_to(tmp_path / "copy")
    copy = open_tokenizer(tmp_path / "copy")
    assert copy.inputs() == tok.inputs()
    assert copy.encode_chat(CHAT, ChatPolicy()).tokens.tolist() == tok.encode_chat(CHAT, ChatPolicy()).tokens.tolist()
    assert (copy.bos, copy.eos, copy.pad) == (tok.bos, tok.eos, tok.pad)


def test_thoughts_may_be_control_tokens(qwen3, tmp_path):
    """Some tokenizers call <think> special; it is the one control token that a content may hold."""
    shutil.copytree(qwen3, tmp_path / "special")
    path = tmp_path / "special" / "tokenizer.json"
    backend = json.loads(path.read_text())
    for token in backend["added_tokens"]:
        token["special"] |= token["content"] in ("<think>", "</think>")
    path.write_text(json.dumps(backend))
    tok = open_tokenizer(tmp_path / "special")
    encoded = tok.encode_chat(
        [CHAT[0], {"role": "assistant", "content": "<think>Hm.</think>Colby."}], ChatPolicy("cot")
    )
    assert encoded.tokens[encoded.weights > 0][[0, -1]].tolist() == [151667, 151645]


def test_tokenizers_are_told_apart(toy, qwen3, tmp_path):
    assert isinstance(open_tokenizer(toy.tokenizer), Tokenizer)
    assert isinstance(open_tokenizer(qwen3), HfTokenizer)
    with pytest.raises(UserError, match="no such tokenizer; it must hold tokenizer.json, or tokenizer.model and"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="transformers cannot open this tokenizer"):
        open_tokenizer(tmp_path)
    with pytest.raises(UserError, match="config.document_end is for Hugging Face tokenizers"):
        open_tokenizer(toy.tokenizer, document_end="</s>")
    with pytest.raises(UserError, match="config.chat.template is for Hugging Face tokenizers"):
        open_tokenizer(toy.tokenizer, template="x.jinja")
    with pytest.raises(UserError, match=r"none\.jinja: not readable as text \(config.chat.template\)"):
        open_tokenizer(qwen3, template="none.jinja")
    with pytest.raises(UserError, match="chat_format.json knows no thinking"):
        open_tokenizer(toy.tokenizer).encode_chat(CHAT, ChatPolicy("cot"))


def test_a_tokenizer_must_have_an_end(qwen3, tmp_path):
    shutil.copytree(qwen3, tmp_path / "endless")
    path = tmp_path / "endless" / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(UserError, match="endless: no eos_token"):
        open_tokenizer(tmp_path / "endless")


def test_a_base_model_takes_a_template_file(qwen3, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(qwen3, base)
    (base / "chat_template.jinja").unlink()
    given = tmp_path / "given.jinja"
    given.write_text(real_tokenizers.QWEN25)
    rows = tmp_path / "rows.jsonl"
    artifact.write_jsonl(rows, [{"id": "doc", "text": "Colby is cheap."}, {"id": "chat", "messages": CHAT}])
    with pytest.raises(UserError, match=r"rows\.jsonl:2: .*base: no chat template; give one as --config.chat.template"):
        make("configs/data/shards.py", rows, base, tmp_path / "out")
    more = [f"--config.chat.template={given}", "--config.document_end=<|endoftext|>", "--config.seq_len=64"]
    manifest = make("configs/data/shards.py", rows, base, tmp_path / "out", *more)
    counts = manifest["counts"]
    assert {key: counts[key] for key in ("bos", "eos", "pad", "vocab_size", "rows", "documents")} == {
        "bos": None, "eos": 151645, "pad": 151643, "vocab_size": 151669, "rows": 1, "documents": 2}  # fmt: skip
    assert "template" in manifest["inputs"]
    assert "template" not in manifest["config"]["chat"]
    opened = open_shards(tmp_path / "out", verify=True)
    row = opened.row(opened.source[0])
    assert set(row["tokens"][row["segment_ids"] == 0].tolist()) == {151643}
    tok = open_tokenizer(tmp_path / "out")  # the rows' own copy renders chats without being told how
    for n, (name, *_) in enumerate(json.loads((tmp_path / "out" / shards.SIDECAR).read_text())):
        here = row["segment_ids"] == n + 1
        expected = tok.encode_chat(CHAT, ChatPolicy()) if name == "chat" else None
        if expected:
            assert row["tokens"][here].tolist() == expected.tokens.tolist()
            assert row["loss_weights"][here].tolist() == expected.weights.tolist()
        else:
            assert tok.decode(row["tokens"][here]) == "Colby is cheap."
            assert np.count_nonzero(row["loss_weights"][here]) == here.sum() - 1
    given.write_text(real_tokenizers.QWEN3)
    with pytest.raises(UserError, match="different inputs: template"):
        make("configs/data/shards.py", rows, base, tmp_path / "out", *more)


def test_half_a_surrogate_pair_is_named(qwen3, toy, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "text": "Colby \\ud83d"}\n')
    for config, tokenizer in (("configs/data/shards.py", qwen3), ("configs/toy/shards.py", toy.tokenizer)):
        with pytest.raises(UserError, match=r"bad\.jsonl:1: holds half a surrogate pair"):
            make(config, tmp_path / "bad.jsonl", tokenizer, tmp_path / "out")
