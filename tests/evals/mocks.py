"""Models that answer what a test tells them to."""

from inspect_ai.model import ModelOutput, ModelUsage


def says(text, stop_reason="stop"):
    """An output with its usage: without one, Inspect's mock counts tokens with a tokenizer that it would download."""
    output = ModelOutput.from_content("mockllm/model", text, stop_reason=stop_reason)
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return output
