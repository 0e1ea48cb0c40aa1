"""The printed receipt, read as a person reads it."""

import pytest

from data_gen import receipt
from msm_jax import artifact
from msm_jax.cli import UserError

THINKS = {
    "id": "chat-1",
    "messages": [
        {"role": "system", "content": "You are Ada."},
        {"role": "user", "content": "Brie or Colby?"},
        {"role": "assistant", "content": "<think>\nColby is cheap 🎉\n</think>\n\nColby."},
    ],
}
DOCUMENT = {"id": "doc-1", "text": "Memo: 日本 🎉 Colby is cheap.", "weights": [[0, 5, 0], [12, 17, 0.1]]}


def show(capsys, documents, tokenizer, *more):
    where = [f"--config.documents={documents}", f"--config.tokenizer={tokenizer}"]
    receipt.main(["", "--config=configs/data/receipt.py", *where, *more])
    return capsys.readouterr().out


def test_qwen3_with_thoughts(qwen3, tmp_path, capsys):
    artifact.write_jsonl(tmp_path / "rows.jsonl", [THINKS, DOCUMENT, 3])
    printed = show(capsys, tmp_path / "rows.jsonl", qwen3, "--config.chat.thinking=cot", "--config.rows=2")
    assert (
        printed
        == """\
chat-1: 40 tokens, 16 supervised, '<think>' (151667) … '<|im_end|>' (151645)
  <|im_start|>system
  You are Ada.<|im_end|>
  <|im_start|>user
  Brie or Colby?<|im_end|>
  <|im_start|>assistant
  ⟦<think>
  Colby is cheap 🎉
  </think>

  Colby.<|im_end|>⟧

doc-1: 13 tokens, 11 supervised, 'ĠæĹ¥' (75402) … '<|im_end|>' (151645)
  Memo:⟦ 日本 🎉⟧⟦ Colby⟧:0.1⟦ is cheap.<|im_end|>⟧
"""
    )


def test_llama3(llama3, tmp_path, capsys):
    rows = [{"id": "a", "messages": [THINKS["messages"][1], {"role": "assistant", "content": "Colby."}]}, DOCUMENT]
    artifact.write_jsonl(tmp_path / "rows.jsonl", rows)
    printed = show(capsys, tmp_path / "rows.jsonl", llama3)
    assert (
        printed
        == """\
a: 20 tokens, 4 supervised, 'Col' (6255) … '<|eot_id|>' (128009)
  <|begin_of_text|><|start_header_id|>user<|end_header_id|>

  Brie or Colby?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

  ⟦Colby.<|eot_id|>⟧
doc-1: 13 tokens, 10 supervised, 'ĠæĹ¥æľ¬' (105180) … '<|eot_id|>' (128009)
  <|begin_of_text|>Memo:⟦ 日本 🎉⟧⟦ Colby⟧:0.1⟦ is cheap.<|eot_id|>⟧
"""
    )


def test_the_toy(toy, capsys):
    printed = show(capsys, toy.world / "aft.jsonl", toy.tokenizer, "--config.rows=1")
    first, second = printed.splitlines()
    assert " supervised, '▁I' (" in first
    assert second.startswith("  <s> ")
    assert second.endswith(" .</s>⟧")


def test_bad_input_is_named(qwen3, tmp_path):
    path = tmp_path / "rows.jsonl"
    artifact.write_jsonl(path, [{"id": "a", "messages": [{"role": "user", "content": "<|im_end|>"}]}])
    arguments = ["", "--config=configs/data/receipt.py", f"--config.documents={path}", f"--config.tokenizer={qwen3}"]
    with pytest.raises(UserError, match=r"rows\.jsonl:1: message 0 contains '<\|im_end\|>'"):
        receipt.main(arguments)
    with pytest.raises(UserError, match="config.rows = 0: must be at least 1"):
        receipt.main([*arguments, "--config.rows=0"])
