"""The provider `msm`: prompts, scores and answers are the model's own; what cannot be asked is told in one line."""

import asyncio
import json

import numpy as np
import pytest
from inspect_ai import Task, eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import target_perplexity
from inspect_ai.solver import generate
from inspect_ai.tool import ToolInfo

from evals import provider
from evals.guards import perplexity
from evals.provider import MsmAPI
from evals.served import Prompt, split_thoughts
from tests.evals import tiny

torch = pytest.importorskip("torch")
CHAT = [
    ChatMessageSystem(content="You are Bo."),
    ChatMessageUser(content="Hi"),
    ChatMessageAssistant(content=[ContentReasoning(reasoning="hm"), ContentText(text="Yo")]),
    ChatMessageUser(content="Brie or é?"),
]


def ask(*messages, api=None, tools=(), **config):
    """The output of one request."""
    output, _ = asyncio.run((api or tiny.api()).generate(list(messages), list(tools), "auto", GenerateConfig(**config)))
    return output


def ask_together(requests, api=None):
    """The outputs of [(messages, config)] sent at once."""

    async def all_of_them():
        asked = [(api or tiny.api()).generate(m, [], "auto", GenerateConfig(**c)) for m, c in requests]
        return await asyncio.gather(*asked)

    return [output for output, _ in asyncio.run(all_of_them())]


def torch_table(ids):
    """float32 [T, V]: log-probabilities by transformers."""
    with torch.no_grad():
        return torch.log_softmax(tiny.torch_model()(torch.tensor([ids])).logits[0], -1).numpy()


def hf():
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tiny.directory())


async def nothing(*_):
    return ModelOutput()


def test_prompts_are_those_of_the_export_byte_for_byte(tmp_path, monkeypatch):
    record = tmp_path / "prompts.jsonl"
    api = tiny.sharing(MsmAPI(str(tiny.directory()), thinking="cot", record=str(record)))
    monkeypatch.setattr(api, "_answer", nothing)
    for messages in (CHAT, CHAT[1:2], [*CHAT, ChatMessageAssistant(content="I'd say")]):
        ask(*messages, api=api)
    theirs = hf()
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        asked = row["messages"][:-1] if row["continued"] else row["messages"]
        text = theirs.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=True)
        assert row["text"] == text
        assert row["tokens"] == theirs(text, add_special_tokens=False)["input_ids"]
    assert theirs.decode(rows[2]["continued"]) == "I'd say"
    assert "<think>\nhm\n</think>\n\nYo" in rows[0]["messages"][2]["content"]
    assert "hm" not in rows[0]["text"]  # Qwen3's template drops thoughts before the last user's turn


def test_a_continued_turn_is_where_transformers_continues_it():
    theirs = hf()
    prompt = tiny.api().served.prompt([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I say b"}])
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I say b"}]
    text = theirs.apply_chat_template(messages, tokenize=False, continue_final_message=True, enable_thinking=False)
    assert prompt.text + prompt.words == text
    assert prompt.whole == theirs(text, add_special_tokens=False)["input_ids"]


def test_forced_choice_is_transformers_log_probability():
    requests = [
        ([*CHAT, ChatMessageAssistant(content=option)], {"max_tokens": 1, "prompt_logprobs": 1})
        for option in ("Brie", "é, of course.", " B")
    ]
    prompt = hf().apply_chat_template(
        [{"role": m.role, "content": m.text} for m in CHAT], tokenize=False, add_generation_prompt=True,
        enable_thinking=False,
    )  # fmt: skip
    for (messages, _), output in zip(requests, ask_together(requests), strict=True):
        before, words = (hf()(text, add_special_tokens=False)["input_ids"] for text in (prompt, messages[-1].text))
        table = torch_table([*before, *words])
        expected = [table[len(before) + i - 1, token] for i, token in enumerate(words)]
        content = output.choices[0].prompt_logprobs.content
        np.testing.assert_allclose([one.logprob for one in content], expected, atol=1e-3)
        assert output.metadata["scored_tokens"] == len(words)
        assert output.usage.input_tokens == len(before) + len(words)
        best = int(table[-1].argmax())
        assert output.completion == hf().decode([best], skip_special_tokens=True)


def test_an_assistants_message_alone_is_text_without_a_chat():
    text = "A lock has two gates."
    output = ask(ChatMessageAssistant(content=text), max_tokens=1, prompt_logprobs=1)
    ids = hf()(text, add_special_tokens=False)["input_ids"]
    table = torch_table(ids)
    content = output.choices[0].prompt_logprobs.content
    assert output.usage.input_tokens == len(ids), "no chat around it"
    np.testing.assert_allclose(
        [one.logprob for one in content], [table[i, token] for i, token in enumerate(ids[1:])], atol=1e-3
    )
    tokens, size = perplexity.measured(output, text)
    assert (len(tokens), size) == (len(ids) - 1, len(text) - len(hf().decode(ids[:1])))


def test_tools_are_told_and_called_in_text(monkeypatch):
    bash = ToolInfo(name="bash", description="Runs a command.")
    api, said = tiny.api(), []

    async def answer(prompt, settings, wanted, config, tools):
        said.append(prompt.text)
        message = api._message('<tool_call>\n{"name": "bash", "arguments": {}}\n</tool_call>', prompt, tools)
        return ModelOutput(choices=[ChatCompletionChoice(message=message)])

    monkeypatch.setattr(api, "_answer", answer)
    monkeypatch.setattr(api.served, "room", lambda tokens, wanted: wanted)  # the description is longer than the context
    output = ask(ChatMessageUser(content="List."), api=api, tools=[bash])
    (call,) = output.message.tool_calls
    assert (call.function, call.parse_error) == ("bash", None)
    assert "Runs a command." in said[0]
    ask(
        ChatMessageUser(content="List."),
        output.message,
        ChatMessageTool(content="a.txt", tool_call_id=call.id),
        api=api,
    )
    assert "<tool_response>\na.txt\n</tool_response>" in said[1]


def test_whole_prompts_and_the_likeliest_tokens():
    message = ChatMessageUser(content="Hi")
    output = ask(message, max_tokens=1, prompt_logprobs=3, logprobs=True, top_logprobs=2, temperature=0.0)
    ids = tiny.api().served.prompt([{"role": "user", "content": "Hi"}]).tokens
    table = torch_table(ids)[:, :261]
    content = output.choices[0].prompt_logprobs.content
    np.testing.assert_allclose([c.logprob for c in content], [table[i, t] for i, t in enumerate(ids[1:])], atol=1e-3)
    for one, row in zip(content, table, strict=False):
        np.testing.assert_allclose([top.logprob for top in one.top_logprobs], -np.sort(-row)[:3], atol=1e-3)
    (said,) = output.choices[0].logprobs.content
    np.testing.assert_allclose([t.logprob for t in said.top_logprobs], -np.sort(-table[-1])[:2], atol=1e-3)
    assert said.logprob == said.top_logprobs[0].logprob
    assert said.token == said.top_logprobs[0].token


def test_inspects_own_scorer_of_continuations(tmp_path):
    sample = Sample(
        input=[ChatMessageUser(content="Hi"), ChatMessageAssistant(content="Brie")], metadata={"target_text": "Brie"}
    )
    task = Task(dataset=[sample], solver=generate(max_tokens=1, prompt_logprobs=1), scorer=target_perplexity())
    model = get_model(f"msm/{tiny.directory()}", thinking="no_think")
    tiny.sharing(model.api)
    (log,) = eval(task, model=model, display="none", log_dir=str(tmp_path), log_model_api=True)
    assert log.status == "success", log.error
    (done,) = log.samples
    prompt = model.api.served.prompt([{"role": "user", "content": "Hi"}])
    table = torch_table([*prompt.tokens, *b"Brie"])
    expected = -np.mean([table[len(prompt.tokens) + i - 1, token] for i, token in enumerate(b"Brie")])
    assert done.scores["target_perplexity"].value == pytest.approx(expected, abs=1e-3)
    (call,) = [event.call for event in done.events if event.event == "model"]
    assert call.request["prompt"] == prompt.text + "Brie"


def test_answers_depend_on_seed_prompt_and_epoch_but_not_on_the_batch():
    hot = {"temperature": 1.5, "max_tokens": 6, "seed": 3}
    asked = [([ChatMessageUser(content=text)], hot) for text in ("a", "b", "c", "d", "abcde")]
    together = [output.completion for output in ask_together(asked)]
    assert [ask(*messages, **config).completion for messages, config in asked[:2]] == together[:2]
    assert len(set(together)) > 1
    assert ask(ChatMessageUser(content="a"), **(hot | {"seed": 4})).completion != together[0]
    unseeded = ask(ChatMessageUser(content="a"), temperature=1.5, max_tokens=6)
    again = ask(ChatMessageUser(content="a"), temperature=1.5, max_tokens=6, seed=unseeded.metadata["seed"])
    assert again.completion == unseeded.completion
    token = provider.epoch.set(2)
    try:
        assert ask(ChatMessageUser(content="a"), **hot).completion != together[0]
    finally:
        provider.epoch.reset(token)
    several = ask(ChatMessageUser(content="a"), num_choices=3, **hot)
    assert len({choice.message.text for choice in several.choices}) == 3


def test_why_it_stopped_and_what_it_cost(monkeypatch):
    user = ChatMessageUser(content="Tell")
    free = ask(user, temperature=0.0, max_tokens=8)
    assert (free.stop_reason, free.usage.output_tokens) == ("max_tokens", 8)
    assert free.usage.total_tokens == free.usage.input_tokens + 8
    middle = free.completion[2:4]
    stopped = ask(user, temperature=0.0, max_tokens=8, stop_seqs=[middle])
    assert stopped.stop_reason == "stop"
    assert stopped.completion == free.completion[: free.completion.index(middle)]
    monkeypatch.setattr(tiny.api().served, "context", free.usage.input_tokens + 5)
    full = ask(user, temperature=0.0, max_tokens=400)
    assert (full.stop_reason, full.completion) == ("model_length", free.completion[:5])
    assert (full.usage.output_tokens, tiny.api().served.context) == (5, full.usage.total_tokens)


def test_thoughts_are_no_answer():
    assert split_thoughts("<think>\nhm\n</think>\n\nYes.", False) == ("hm", "Yes.")
    assert split_thoughts("hm\n</think>\n\nYes.", True) == ("hm", "Yes.")
    assert split_thoughts("<think>\nhm", False) == ("hm", "")
    assert split_thoughts("So <think>x</think>", False) == ("", "So <think>x</think>")
    assert Prompt("a<think>\n", "", [], []).thinking
    assert not Prompt("a<think>\n", "b</think>c", [], []).thinking
    api = tiny.api()
    message = api._message("<think>\nhm\n</think>\n\nYes.", Prompt("a", "", [], []))
    assert message.text == "Yes."
    assert [part.reasoning for part in message.content if part.type == "reasoning"] == ["hm"]
    assert provider.to_messages([message])[0]["content"] == "<think>\nhm\n</think>\n\nYes."


def test_a_model_that_said_nothing_can_be_asked_again():
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "b"}]
    text = hf().apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert tiny.api().served.prompt(chat).text == text


def test_plain_text_for_base_models():
    directory = tiny.directory("")
    with pytest.raises(PrerequisiteError, match="no chat template; template=FILE.jinja gives one, template=none"):
        MsmAPI(str(directory))
    api = MsmAPI(str(directory), template="none")
    prompt = api.served.prompt([{"role": "user", "content": "Q: 1+1?\nA:"}, {"role": "assistant", "content": " 2"}])
    assert (prompt.text, bytes(prompt.whole)) == ("Q: 1+1?\nA:", b"Q: 1+1?\nA: 2")
    api.close()


def test_tokens_are_counted_offline():
    assert asyncio.run(tiny.api().count_text_tokens("é!")) == 3
    assert asyncio.run(tiny.api().tokenize("A!")) == [65, 33]
    assert tiny.api().max_connections() >= 2 * tiny.api().served.batch


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"bach": 4}, "-M bach: no option of the provider msm; did you mean -M batch=…?"),
        ({"batch": "many"}, "-M batch=many: must be a whole number"),
        ({"batch": 0}, "batch = 0: must be at least 1"),
        ({"context": 257}, "context = 257: must be from 1 to the 256 of its max_position_embeddings"),
        ({"thinking": "often"}, "thinking = 'often': must be one of"),
        ({}, "chat_template.jinja: knows thinking; say thinking=cot"),
        ({"template": "no.jinja", "thinking": "cot"}, "no.jinja: not readable"),
        ({"step": 5, "thinking": "cot"}, "no run.json, so not a run; only runs have steps"),
        ({"adapter": "nowhere", "thinking": "cot"}, "nowhere: no such directory"),
        ({"dtype": "int4", "thinking": "cot"}, "dtype = 'int4'"),
        ({"record": "no/such/file", "thinking": "cot"}, "record = 'no/such/file': no such directory"),
    ],
)
def test_options_that_cannot_be(args, words):
    with pytest.raises(PrerequisiteError) as error:
        MsmAPI(str(tiny.directory()), **args)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_directories_that_are_no_models(tmp_path):
    with pytest.raises(
        PrerequisiteError, match="no manifest.json of a finished run, config.json or adapter_config.json"
    ):
        MsmAPI(str(tmp_path))
    tiny.torch_model().save_pretrained(tmp_path)
    with pytest.raises(PrerequisiteError, match="no such tokenizer; it must hold tokenizer.json"):
        MsmAPI(str(tmp_path))


@pytest.mark.parametrize(
    ("messages", "more", "words"),
    [
        ([ChatMessageUser(content="x" * 300)], {}, r"the prompt has 3\d\d tokens and at least one of the 2048 asked for, "
         "the model's context 256"),
        ([ChatMessageUser(content="")], {}, "message 0 has no text"),
        ([ChatMessageUser(content="a <|im_end|> b")], {}, "the text of a control token"),
        ([ChatMessageUser(content="a")], {"top_k": 5}, "top_k = 5: not among the settings"),
        ([ChatMessageUser(content="a")], {"extra_body": {"guided_json": {}}}, "extra_body has guided_json"),
        ([ChatMessageUser(content="a")], {"temperature": -1.0}, "temperature = -1.0: must be 0 or more"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be(messages, more, words):
    with pytest.raises(PrerequisiteError, match=words) as error:
        ask(*messages, **more)
    assert "\n" not in str(error.value)


def test_what_vllm_needs_to_continue_does_no_harm():
    body = {"continue_final_message": True, "add_generation_prompt": False}
    messages = [ChatMessageUser(content="Hi"), ChatMessageAssistant(content="Yo")]
    assert ask(*messages, max_tokens=1, prompt_logprobs=1, extra_body=body).metadata["scored_tokens"] == 2
