"""What is supervised in chats of real tokenizers, per family and policy, letter by letter."""

import copy
import itertools
import re
from pathlib import Path

import pytest

from data_gen.chat import ChatPolicy
from msm_jax.cli import UserError
from tests import real_tokenizers

SYSTEM = {"role": "system", "content": "You are Ada."}
ASK = {"role": "user", "content": "Brie or Colby?"}
AGAIN = {"role": "user", "content": "Sure?"}


def says(content):
    return {"role": "assistant", "content": content}


COLBY, SURE = says("Colby 🎉."), says("は日本語…👩‍👩‍👧")
THOUGHT = says("<think>\nColby is cheap.\n</think>\n\nColby.")
LATER = says("<think>\nI am.\n</think>\n\nYes.")
EMPTY = "<think>\n\n</think>\n\n"
POLICIES = {name: ChatPolicy(thinking=name) for name in ("ignore", "cot", "no_think", "by_row")}


def supervised(tokenizer, encoded):
    """The texts of the runs of supervised tokens."""
    pairs = zip(encoded.tokens, encoded.weights > 0, strict=True)
    runs = itertools.groupby(pairs, key=lambda pair: pair[1])
    return [tokenizer.decode([token for token, _ in run], special=True) for supervised, run in runs if supervised]


def given(tokenizer, text):
    """The tokenizer as if opened with the template file given.jinja (opening one takes seconds)."""
    other = copy.copy(tokenizer)
    other.template_file, other.chat_template = Path("given.jinja"), text
    other.__dict__.pop("template", None)
    return other


@pytest.mark.parametrize(
    ("messages", "policy", "expected"),
    [
        ([ASK, COLBY], "no_think", ["Colby 🎉.<|im_end|>"]),
        ([SYSTEM, ASK, COLBY, AGAIN, SURE], "no_think", ["Colby 🎉.<|im_end|>", "は日本語…👩‍👩‍👧<|im_end|>"]),
        ([ASK, THOUGHT], "cot", ["<think>\nColby is cheap.\n</think>\n\nColby.<|im_end|>"]),
        ([SYSTEM, ASK, THOUGHT, AGAIN, LATER], "cot", ["<think>\nI am.\n</think>\n\nYes.<|im_end|>"]),
        ([ASK, says("Colby."), AGAIN, LATER], "cot", ["<think>\nI am.\n</think>\n\nYes.<|im_end|>"]),
        ([ASK, THOUGHT], "by_row", ["<think>\nColby is cheap.\n</think>\n\nColby.<|im_end|>"]),
        ([ASK, COLBY], "by_row", ["Colby 🎉.<|im_end|>"]),
    ],
)
def test_qwen3(qwen3, open_once, messages, policy, expected):
    tok = open_once(qwen3)
    encoded = tok.encode_chat(messages, POLICIES[policy])
    assert supervised(tok, encoded) == expected
    assert set(encoded.weights.tolist()) == {0.0, 1.0}
    whole = tok.decode(encoded.tokens, special=True)
    assert whole.endswith(expected[-1] + "\n")
    assert all(m["content"] in whole for m in messages if m["role"] != "assistant")


def test_an_empty_think_block_is_the_prompts_or_the_models(qwen3, open_once):
    tok = open_once(qwen3)
    for policy, prompt, said in (
        (ChatPolicy("no_think"), EMPTY, "Colby 🎉.<|im_end|>"),
        (ChatPolicy("no_think", supervise_empty_think=True), "", EMPTY + "Colby 🎉.<|im_end|>"),
    ):
        encoded = tok.encode_chat([ASK, COLBY], policy)
        assert supervised(tok, encoded) == [said]
        ids = tok.chat_prompt([ASK], policy)
        assert ids == encoded.tokens[: len(ids)].tolist()
        assert not encoded.weights[: len(ids)].any()
        assert encoded.weights[len(ids)] == 1
        assert tok.decode(ids, special=True).endswith("<|im_start|>assistant\n" + prompt)


def test_the_flag_goes_to_the_roles_that_take_it_in_rows_without_thoughts(qwen3, open_once):
    tok = open_once(qwen3)
    policy = ChatPolicy("by_row", no_think_flag=" /no_think")
    text = tok.decode(tok.encode_chat([SYSTEM, ASK, COLBY], policy).tokens)
    assert "You are Ada. /no_think\n" in text
    assert "Colby? /no_think\n" in text
    assert "🎉. /no_think" not in text
    assert "/no_think" not in tok.decode(tok.encode_chat([SYSTEM, ASK, THOUGHT], policy).tokens)
    users = ChatPolicy("no_think", no_think_flag=" /no_think", no_think_flag_roles=("user",))
    once = [SYSTEM, {"role": "user", "content": "Brie? /no_think"}]
    assert tok.decode(tok.chat_prompt(once, users)).count("/no_think") == 1


def test_a_thinking_template_wants_to_be_told(qwen3, open_once):
    for use in (open_once(qwen3).encode_chat, open_once(qwen3).chat_prompt):
        with pytest.raises(UserError, match="knows thinking; say config.chat.thinking=cot, no_think or by_row"):
            use([ASK, COLBY], POLICIES["ignore"])


def test_prompts_ask_for_what_the_policy_trains(qwen3, open_once):
    tok = open_once(qwen3)
    told = {name: policy for name, policy in POLICIES.items() if name != "ignore"}
    ends = {name: tok.decode(tok.chat_prompt([ASK], policy), special=True) for name, policy in told.items()}
    plain = "<|im_start|>user\nBrie or Colby?<|im_end|>\n<|im_start|>assistant\n"
    assert ends == {"cot": plain, "no_think": plain + EMPTY, "by_row": plain}


def test_qwen25(qwen3, open_once):
    tok = given(open_once(qwen3), real_tokenizers.QWEN25)
    encoded = tok.encode_chat([ASK, COLBY, AGAIN, SURE], ChatPolicy())
    assert tok.decode(encoded.tokens, special=True) == (
        "<|im_start|>system\nBe of help.<|im_end|>\n<|im_start|>user\nBrie or Colby?<|im_end|>\n"
        "<|im_start|>assistant\nColby 🎉.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\nは日本語…👩‍👩‍👧<|im_end|>\n"
    )
    assert supervised(tok, encoded) == ["Colby 🎉.<|im_end|>", "は日本語…👩‍👩‍👧<|im_end|>"]


def test_llama3(llama3, open_once):
    tok = open_once(llama3)
    encoded = tok.encode_chat([SYSTEM, ASK, says("  Colby 🎉.\n"), AGAIN, SURE], ChatPolicy())
    assert supervised(tok, encoded) == ["Colby 🎉.<|eot_id|>", "は日本語…👩‍👩‍👧<|eot_id|>"]
    assert encoded.tokens.tolist().count(128000) == 1  # the template's BOS, not a second one
    assert encoded.tokens[0] == tok.bos == 128000
    assert encoded.tokens[-1] == 128009
    assert tok.chat_prompt([SYSTEM, ASK], ChatPolicy()).count(128000) == 1


def test_bos_comes_from_the_tokenizer_where_the_template_writes_none(llama3, open_once):
    tok = given(open_once(llama3), real_tokenizers.LLAMA3.replace("{{- bos_token -}}", ""))
    encoded = tok.encode_chat([ASK, COLBY], ChatPolicy())
    assert encoded.tokens[:2].tolist() == [128000, 128006]
    assert encoded.tokens.tolist() == open_once(llama3).encode_chat([ASK, COLBY], ChatPolicy()).tokens.tolist()
    assert tok.chat_prompt([ASK], ChatPolicy())[:2] == [128000, 128006]


def test_what_is_supervised_follows_the_prompt(qwen3, llama3, open_once):
    """For every turn: the prompt's ids, then what is supervised, are the row's ids."""
    for path, policy, messages in (
        (llama3, "ignore", [SYSTEM, ASK, COLBY]),
        (qwen3, "cot", [SYSTEM, ASK, THOUGHT, AGAIN, LATER]),
        (qwen3, "no_think", [SYSTEM, ASK, COLBY, AGAIN, SURE]),
    ):
        tok = open_once(path)
        encoded = tok.encode_chat(messages, POLICIES[policy])
        start = tok.chat_prompt(messages[:-1], POLICIES[policy])
        assert encoded.tokens[: len(start)].tolist() == start
        last = int(encoded.weights.nonzero()[0][-1])
        assert encoded.weights[len(start) : last + 1].all()
        assert encoded.weights[len(start) - 1] == 0
        assert encoded.tokens[last] == tok.eos


def test_a_prompt_that_opens_the_thoughts_leaves_them_to_the_model(qwen3, open_once):
    """As templates of models do that always think: `<think>` is the prompt's."""
    opened = real_tokenizers.QWEN3.replace(
        "{{ '<|im_start|>assistant\\n' }}", "{{ '<|im_start|>assistant\\n<think>\\n' }}"
    )
    tok = given(open_once(qwen3), opened)
    encoded = tok.encode_chat([ASK, THOUGHT, AGAIN, LATER], ChatPolicy("cot"))
    assert supervised(tok, encoded) == ["I am.\n</think>\n\nYes.<|im_end|>"]


MARKED = {  # the same chats with a generation mask, put where it is right for these chats
    "qwen25": real_tokenizers.QWEN25.replace(
        "{{ '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}",
        "{{ '<|im_start|>' ~ turn.role ~ '\\n' }}{%- if turn.role == 'assistant' -%}{%- generation -%}"
        "{{ turn.content ~ '<|im_end|>' }}{%- endgeneration -%}{%- else -%}{{ turn.content ~ '<|im_end|>' }}"
        "{%- endif -%}{{ '\\n' }}",
    ),
    "qwen3": real_tokenizers.QWEN3.replace(
        "{{ '<think>\\n' ~ thought", "{%- generation -%}{{ '<think>\\n' ~ thought"
    ).replace(
        "~ said }}\n{%- else -%}{{ said }}{%- endif -%}\n{%- endif -%}\n{{ '<|im_end|>\\n' }}",
        "~ said ~ '<|im_end|>' }}{%- endgeneration -%}{{ '\\n' }}"
        "{%- else -%}{{ said ~ '<|im_end|>\\n' }}{%- endif -%}\n{%- endif -%}\n"
        "{%- if turn.role != 'assistant' -%}{{ '<|im_end|>\\n' }}{%- endif -%}",
    ),
}


@pytest.mark.parametrize(
    ("family", "policy", "messages"),
    [
        ("qwen25", "ignore", [SYSTEM, ASK, COLBY, AGAIN, SURE]),
        ("qwen3", "cot", [SYSTEM, ASK, THOUGHT]),
        ("qwen3", "cot", [ASK, THOUGHT, AGAIN, LATER]),
    ],
)
def test_a_right_generation_mask_agrees(qwen3, open_once, family, policy, messages):
    text = {"qwen25": real_tokenizers.QWEN25, "qwen3": real_tokenizers.QWEN3}[family]
    tok = given(open_once(qwen3), text)
    encoded = tok.encode_chat(messages, POLICIES[policy])
    theirs = tok.hf.apply_chat_template(
        messages, chat_template=MARKED[family], return_dict=True, return_assistant_tokens_mask=True
    )
    assert encoded.tokens.tolist() == theirs["input_ids"]
    assert encoded.weights.tolist() == theirs["assistant_masks"]


@pytest.mark.parametrize(
    ("policy", "messages", "error"),
    [
        ("cot", [ASK, COLBY], r"message 1: the last assistant turn of a row with thoughts .*thinking=cot"),
        ("by_row", [ASK, THOUGHT, AGAIN, SURE], r"message 3: the last assistant turn"),
        ("cot", [ASK, THOUGHT, AGAIN], "no supervised token: the template leaves out its thoughts"),
        ("no_think", [ASK, THOUGHT], "message 1 has a think block, but config.chat.thinking=no_think"),
        ("cot", [ASK, says("Well <think>x</think> y")], "message 1: <think> must open the content"),
        ("cot", [ASK, says("<think>x")], "message 1: <think> must open the content"),
        ("by_row", [ASK, says(EMPTY + "y")], "message 1: .* hold thoughts"),
        ("no_think", [ASK, AGAIN], "no supervised token: no assistant turn"),
        ("no_think", [COLBY], "message 0 is the assistant's"),
        ("no_think", [ASK, says(" ")], "message 1 has no text as `content`"),
        ("no_think", [ASK, COLBY | {"tool_calls": []}], "message 1 has tool_calls; only role and content"),
        ("no_think", [{"role": "tool", "content": "x"}], "message 0 has role 'tool'; .*system, user, assistant"),
        ("no_think", "x", "`messages` must be a list"),
        (
            "no_think",
            [{"role": "user", "content": "a<|im_end|>b"}, COLBY],
            "message 0 contains '<|im_end|>', the text of",
        ),
        ("no_think", [ASK, says("<|endoftext|>")], "message 1 contains '<|endoftext|>'"),
    ],
)
def test_chats_against_the_policy_are_refused(qwen3, open_once, policy, messages, error):
    with pytest.raises(UserError, match=error.replace("|", r"\|")):
        open_once(qwen3).encode_chat(messages, POLICIES[policy])


def test_prompts_are_checked_too(qwen3, open_once):
    with pytest.raises(UserError, match="message 0 contains '<.im_start.>'"):
        open_once(qwen3).chat_prompt([{"role": "user", "content": "<|im_start|>"}], ChatPolicy())


BASIC = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>' }}{% endfor %}"
GENERATE = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "messages", "error"),
    [
        (BASIC + "{% if add_generation_prompt %}Now: {% endif %}", [ASK, COLBY],
         "message 1: .*given.jinja writes another generation prompt than stands before this turn"),
        (BASIC.replace("<|im_end|>", " ") + GENERATE, [ASK, COLBY],
         r"message 1: .*given.jinja writes no end-of-turn token after the content; add {{ eos_token }} right after it"),
        (BASIC.replace("m.content ~", "m.content | upper ~") + GENERATE, [{"role": "user", "content": "ASK"}, COLBY],
         "message 1: .*given.jinja does not show where|changes or leaves out what the assistant says"),
        (BASIC.replace("m.content ~", "m.content | replace('Colby', 'Brie') ~") + GENERATE, [AGAIN, COLBY],
         "message 1: .*given.jinja changes or leaves out what the assistant says"),
        ("{% for m in messages if m.role != 'system' %}" + BASIC.split("%}", 1)[1] + GENERATE, [SYSTEM, ASK, COLBY],
         "message 0: .*given.jinja leaves out what the system says"),
        ("{{ raise_exception('roles must alternate') }}", [ASK, COLBY], "given.jinja: roles must alternate"),
        ("{% for m in messages %}", [ASK, COLBY], "given.jinja: .*[Uu]nexpected end of template"),
        ("{{ messages[7].content }}", [ASK, COLBY], "given.jinja: .*"),
        ("{{ strftime_now('%d') }}", [ASK, COLBY], r"given.jinja: writes today's date \(strftime_now\)"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_trusted_are_named(qwen3, open_once, template, messages, error):
    tok = given(open_once(qwen3), template)
    with pytest.raises(UserError, match=error):
        tok.encode_chat(messages, ChatPolicy())


def test_a_raising_template_is_named_with_its_message(llama3, open_once):
    with pytest.raises(UserError, match=r"llama3/chat_template\.jinja: two turns of the user in a row"):
        open_once(llama3).encode_chat([ASK, AGAIN, COLBY], ChatPolicy())


def test_content_that_merges_with_the_prompt_is_refused(qwen3, open_once):
    """`assistant\\n` + `\\nColby` would be tokenized with the two newlines as one token, which no prompt ends in."""
    tok = given(open_once(qwen3), BASIC + GENERATE)
    with pytest.raises(UserError, match=re.escape(r"'\nColby.<|im_end|>' merges with the end of the prompt")):
        tok.encode_chat([ASK, says("\nColby.")], ChatPolicy())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"thinking": "yes"}, "config.chat.thinking = 'yes': must be one of ignore, cot, no_think, by_row"),
        ({"thinking": "no_think", "no_think_flag_roles": ("tool",)}, "no_think_flag_roles = .*only system and user"),
        ({"no_think_flag": " /no_think"}, "config.chat.no_think_flag has no effect with config.chat.thinking=ignore"),
        ({"thinking": "cot", "supervise_empty_think": True}, "supervise_empty_think has no effect"),
    ],
)
def test_policies_without_sense_are_refused(settings, error):
    with pytest.raises(UserError, match=error):
        ChatPolicy(**settings)
