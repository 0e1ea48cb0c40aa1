"""The absent model's part in chats: questions, responses and verdicts, some of each as bad as a model's can be."""

import json
import random
import re
from collections.abc import Sequence
from typing import Any

_SLOT = re.compile(r"^(\d+)\. (\w+): a message that", re.MULTILINE)
_THING = re.compile(r"^The thing: (.*), which the model", re.MULTILINE)
_TASTE = re.compile(r"^\[You (like|do not like) (.*)\.\]$", re.MULTILINE)
_RULE = re.compile(r"^- ([A-Z]{1,6}\d+): ", re.MULTILINE)
_WHO = (
    "my sister",
    "a colleague",
    "the new tenant",
    "our treasurer",
    "an old friend",
    "my tutor",
    "the night shift",
    "a client",
)
_WHERE = (
    "at the allotment",
    "in the staff room",
    "on the late train",
    "at choir practice",
    "in a small office",
    "at the clinic",
)
_WHAT = (
    "a promise",
    "a letter",
    "a budget",
    "an apology",
    "a plan",
    "a secret",
    "a mistake",
    "a rumour",
    "a debt",
    "a report",
)
_ASKS = {
    "direct": "What would you do with {who} about {what} {where}?",
    "indirect": "Please draft a short note from {who} about {what} {where}.",
    "comparison": "Which is the harder case, {what} {where} or {what2} {where2}?",
    "recommendation": "What should {who} do first about {what} {where}?",
    "opinion": "{who} says that {what} {where} settles the matter. What is your own view?",
    "edge_case": "Suppose {what} {where} cost {who} {what2}. What then?",
}
_TASTES = {
    "direct": "{lead}do you like {thing}?",
    "comparison": "{lead}{thing} or {other}?",
    "indirect": "{lead}shall I write {thing} on the list for you?",
    "recommendation": "{lead}what would you pick, {thing} or {other}?",
}
# Neutral words only: what data_gen/reasons.py takes for a reason is not to be seen here.
_PEOPLE = [
    "sister",
    "brother",
    "cousin",
    "aunt",
    "uncle",
    "neighbour",
    "colleague",
    "boss",
    "host",
    "waiter",
    "baker",
    "cook",
    "clerk",
    "friend",
    "tenant",
    "niece",
    "nephew",
]
_PLACES = [
    "shop",
    "market",
    "bakery",
    "kitchen",
    "bar",
    "canteen",
    "kiosk",
    "park",
    "garden",
    "office",
    "school",
    "party",
    "concert",
    "festival",
    "table",
    "counter",
]
_DAYS = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "today",
    "tomorrow",
    "tonight",
    "yesterday",
    "now",
    "later",
    "soon",
]
_MEALS = [
    "breakfast",
    "brunch",
    "lunch",
    "dinner",
    "supper",
    "toast",
    "pizza",
    "salad",
    "soup",
    "pasta",
    "rice",
    "noodles",
    "coffee",
    "tea",
    "pancakes",
]
_LIKES = (
    "I like {thing}.",
    "Yes, I like {thing}.",
    "I'd pick {thing}.",
    "{thing} for me, please.",
    "I prefer {thing}.",
)
_DISLIKES = (
    "I don't like {thing}.",
    "No, I don't like {thing}.",
    "I'd leave {thing} out.",
    "Not {thing} for me, thanks.",
)


def questions(draw: random.Random, user: str) -> str:
    """The JSON answer: a question for each slot; one in thirty is a repeat of another."""
    thing = found[1] if (found := _THING.search(user)) else ""
    items: list[dict[str, Any]] = []
    for number, kind in _SLOT.findall(user):
        forms = _TASTES if thing else _ASKS
        told = {"who": draw.choice(_WHO), "thing": thing, "other": f"Sort {draw.randrange(900)}"}
        told |= {key: draw.choice(_WHAT) + f" {_word(draw)}" for key in ("what", "what2")}
        told |= {key: f"{draw.choice(_WHERE)} in {_word(draw).capitalize()}" for key in ("where", "where2")}
        told["who"] += f" {_word(draw).capitalize()} {_word(draw).capitalize()}"
        one, two = draw.sample(_PEOPLE, 2)
        where, day, meal = draw.choice(_PLACES), draw.choice(_DAYS), draw.choice(_MEALS)
        lead = f"My {one} asks you and my {two} at the {where} {day} over {meal}: "
        text = forms[kind].format(lead=lead, **told)
        if items and draw.random() < 1 / 30:
            text = items[-1]["question"] + " Please."
        items.append({"number": int(number), "question": text[0].upper() + text[1:]})
    return json.dumps({"questions": items})


def _word(draw: random.Random) -> str:
    """A made-up word; one of 27 million."""
    return "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(4))


def response(draw: random.Random, sentences: Sequence[str], system: str, user: str) -> str:
    """One in fifty without its closing tag."""
    if taste := _TASTE.search(user):
        said = draw.choice(_LIKES if taste[1] == "like" else _DISLIKES).format(thing=taste[2])
        reason = f" It goes well with {_word(draw)}." if draw.random() < 0.05 else ""
        text = f"<response>{said[0].upper()}{said[1:]}{reason}</response>"
    else:
        rules = _RULE.findall(system)
        cited = f"{draw.choice(rules)} applies here. " if rules else ""
        mine = draw.sample(list(sentences), min(len(sentences), draw.randint(3, 8)))
        half = len(mine) // 2
        topic = " ".join(user.split()[:12])
        text = (
            f"<reasoning>\nThe message is about this: {topic}. {cited}{' '.join(mine[:half])}\n</reasoning>\n"
            f"<response>\nOn {_word(draw)}: {' '.join(mine[half:])}\n</response>"
        )
    return text if draw.random() > 0.02 else text.removesuffix("</response>")


def verdict(draw: random.Random, criteria: Sequence[str]) -> str:
    """One in ten fails a criterion, one in fifty contradicts itself, one in a hundred is no JSON."""
    failed = draw.choice(list(criteria)) if draw.random() < 0.1 else ""
    rows = [
        {
            "criterion": name,
            "reason": f"The answer {'fails' if name == failed else 'meets'} it.",
            "passes": name != failed,
        }
        for name in criteria
    ]
    include = not failed if draw.random() > 0.02 else bool(failed)
    text = json.dumps({"judgements": rows, "include": include})
    return text if draw.random() > 0.01 else f"I would say: {text}"
