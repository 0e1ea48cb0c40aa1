"""An item as a model is asked it: as a chat or as a text to be completed, options by their words or by letters."""

import functools
from pathlib import Path

import jinja2
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageUser

FORMATS = ("chat", "completion")
ANSWERS = ("text", "letter")
LETTERS = ("A", "B")

# Stands in the question's place where an option's likelihood is wanted that owes nothing to the question.
NEUTRAL = "Here are two lines of text. Copy out one of them, no matter which."

_FILES = jinja2.FileSystemLoader(Path(__file__).with_name("prompts"))
_JINJA = jinja2.Environment(loader=_FILES, undefined=jinja2.StrictUndefined, autoescape=False)


@functools.cache
def _template(name: str) -> jinja2.Template:
    return _JINJA.get_template(f"{name}.md")


def prompt(question: str, options: tuple[str, str], form: str, answers: str) -> str:
    """The question with its options in this order."""
    first, second = options
    return _template(f"{form}_{answers}").render(question=question, first=first, second=second).strip()


def asked(text: str, answer: str, form: str) -> list[ChatMessage]:
    """The messages of a prompt; with an answer, those in which it is said already.

    A text to be completed is one message of the user's, as Inspect's completion providers want it, and as `msm` takes
    it with `-M template=none`.
    """
    if form == "completion":
        return [ChatMessageUser(content=f"{text} {answer}" if answer else text)]
    said: list[ChatMessage] = [ChatMessageAssistant(content=answer)] if answer else []
    return [ChatMessageUser(content=text), *said]
