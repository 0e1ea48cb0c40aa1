"""Tools for models that only write text: a provider without a tools' API describes them, and reads calls, in text.

A provider's `generate` calls `as_text(input, tools)` before it applies its chat template and `read(text, tools, name)`
on what the model wrote; the choice's stop reason is then "tool_calls" where the message has some. The words and the
form (JSON in <tool_call> tags, Qwen's and Hermes' own) are those of Inspect's handler for Llama 3.1.
"""

from collections.abc import Sequence

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser
from inspect_ai.model._providers.util import Llama31Handler
from inspect_ai.tool import ToolInfo


def as_text(input: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> list[ChatMessage]:
    """Messages of which none has a tool call or the role `tool`, for chat templates that know neither.

    Tools are described at the end of the one system message; calls stand in the assistant's text; results are a
    user's messages in <tool_response> tags. Without tools, and without a trace of them, the messages are as they were.
    """
    handler = Llama31Handler("")
    messages = [_plain(handler, message) for message in input]
    if not tools:
        return messages
    described = handler.input_with_tools([], list(tools))[0].text
    system = [message.text for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    return [ChatMessageSystem(content="\n\n".join([*system, described.strip()])), *rest]


def read(text: str, tools: Sequence[ToolInfo], model: str) -> ChatMessageAssistant:
    """The assistant's message that a model's text is; a call that cannot be read is one with its `parse_error`."""
    if not tools:
        return ChatMessageAssistant(content=text, model=model, source="generate")
    return Llama31Handler(model).parse_assistant_response(text, list(tools))


def _plain(handler: Llama31Handler, message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        said = handler.tool_message(message)["content"]
        return ChatMessageUser(content=f"<tool_response>\n{said}\n</tool_response>")
    if message.role == "assistant" and message.tool_calls:
        return ChatMessageAssistant(content=handler.assistant_message(message)["content"])
    return message
