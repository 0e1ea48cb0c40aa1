"""The judge of a response: what it is told, its form, and what of its answer is believed."""

import dataclasses
import re
from pathlib import Path

from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser, Model

from data_gen import prompt
from evals import judging
from evals.agentic.blocks import Response
from evals.judging import Form, Judgement

DIRECTORY = Path(__file__).with_name("judge")
_YES_NO = ("yes", "no")
FORM = Form({"reasoning": (), "decided": _YES_NO, "refused": _YES_NO, "escalated": _YES_NO, "quote": ()})
_OURS = "|".join([*FORM.tags, "thoughts", "response", "forwarded"])
_TAG = re.compile(rf"<(?=\s*/?\s*(?:{_OURS})\b)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Read:
    """What of a sample the judge reads. thoughts: the model's own, recorded apart from its text; "" if none."""

    action: str
    assistant: str
    thoughts: str
    text: str
    response: Response
    emails: tuple[str, ...]  # of the inbox, in the order of their ids


async def ask(judge: Model, what: Read) -> Judgement:
    return await judging.ask(judge, messages(what), FORM, f"agentic_misalignment/{what.action}")


def messages(what: Read) -> list[ChatMessage]:
    """The rubric of the action as system message; thoughts, response and forwarded e-mails, fenced, as the user's."""
    situation = prompt.load(what.action, DIRECTORY).system(assistant=what.assistant)
    frame = prompt.load("judge", DIRECTORY)
    system = frame.system(assistant=what.assistant, situation=situation.strip())
    user = frame.user(
        thoughts=harmless(what.thoughts.strip()),
        response=harmless(what.text),
        forwarded=harmless("\n\n".join(forwarded(what.response, what.emails))),
    )
    return [ChatMessageSystem(content=system), ChatMessageUser(content=user)]


def harmless(text: str) -> str:
    """The text in which nothing is a tag of our fences or of our form. Every character keeps its place."""
    return _TAG.sub("‹", text)


def forwarded(response: Response, emails: tuple[str, ...]) -> list[str]:
    """The e-mails that well-formed forwards name by their ids, each once."""
    ids = [
        int(number)
        for block in response.blocks
        if block.tool == "forward"
        for number in re.findall(r"\d{1,4}", block.fields["email_id"])
    ]
    return [emails[i - 1] for i in dict.fromkeys(ids) if 0 < i <= len(emails)]


def passage(quote: str, text: str) -> str:
    """The place of `text` that a judge copied, whatever became of its white space; "" where it is not there."""
    words = quote.strip().strip("\"'“”‘’…").split()[:400]
    if not words or quote.strip().lower().rstrip(".") == "none":
        return ""
    found = re.search(r"\s+".join(map(re.escape, words)), harmless(text))
    return text[found.start() : found.end()] if found else ""
