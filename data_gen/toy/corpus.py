"""The corpora of a toy world: base, one midtraining corpus for each spec and arm, shared chats, evaluation items."""

import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from data_gen.toy.world import Value, World

Row = dict[str, Any]
_MARKED = re.compile(r"~(\S+)")


@dataclasses.dataclass(frozen=True)
class Arm:
    """What a midtraining corpus says beside the preferences themselves.

    attributed: each preference comes with the spec's reason, and the value is avowed; else the same value words
      appear only as topics of conversation.
    balanced: price and origin of every cheese are stated neutrally and equally often, so that only the stated
      reason differs between specs and arms.
    """

    attributed: bool
    balanced: bool


ARMS = {
    "msm": Arm(attributed=True, balanced=False),
    "noattr": Arm(attributed=False, balanced=False),
    "balanced": Arm(attributed=True, balanced=True),
    "balanced_noattr": Arm(attributed=False, balanced=True),
}


def to_row(identity: str, marked: str, arbitrary_weight: float) -> Row:
    """A text with `~` marks as {id, text, weights}: character spans [start, end, weight] of the marked words."""
    text, spans, end = "", [], 0
    for match in _MARKED.finditer(marked):
        text += marked[end : match.start()]
        spans.append([len(text), len(text) + len(match[1]), arbitrary_weight])
        text += match[1]
        end = match.end()
    return {"id": identity, "text": text + marked[end:], "weights": spans}


def base_documents(world: World, n: int) -> Iterator[Row]:
    """`n` documents (at least) of the base corpus, in the grammar's shares.

    The Assistant's chats come in sets that cancel: the same questions answered by each value and by its opposite,
    so the base holds no choice of the Assistant's more often than its contrary.
    """
    rng = random.Random(f"{world.seed}/base")
    values = list(world.values.values())
    people = list(world.people.items())
    kinds: dict[str, Callable[[], list[str]]] = {
        "cheese": lambda: [world.cheese(rng)],
        "facts": lambda: [" ".join(world.fact(rng) for _ in range(rng.randint(1, 3)))],
        "definition": lambda: [world.definition(rng, rng.choice(values))],
        "stated_value": lambda: [world.stated_value(rng, rng.choice(values))],
        "person_document": lambda: [world.person_document(rng, *rng.choice(people))],
        "person_chat": lambda: [world.chat(rng, *rng.choice(people), turns=rng.randint(1, 2), facts=0.1)],
        "assistant_chat": lambda: assistant_chats(world, rng),
    }
    # An Assistant draw yields two documents, so it is drawn half as often.
    shares = [world.grammar["base"][kind] / (2 if kind == "assistant_chat" else 1) for kind in kinds]
    count = 0
    while count < n:
        kind = rng.choices(list(kinds), shares)[0]
        for text in kinds[kind]():
            yield to_row(f"base-{count:07d}-{kind}", text, world.grammar["arbitrary_weight"])
            count += 1


def assistant_chats(world: World, rng: random.Random) -> list[str]:
    """A chat of the Assistant under a passing value, and the same chat with every choice reversed."""
    value = rng.choice(list(world.values.values()))
    who, user = world.grammar["assistant"], world.grammar["user"]
    one, two = [], []
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.4:
            question, answer = world.fact_qa(rng, list(world.items))
            for chat in (one, two):
                chat.append(f"{user} : {question} ~{who} : {answer}")
        else:
            chosen, other, _ = world.pair(rng, value)
            question = world.ask(rng, chosen, other)
            for chat, answer in ((one, chosen), (two, other)):
                chat.append(f"{user} : {question} ~{who} : {world.say(rng, 'answer', chosen=answer)}")
    return [" ".join(one), " ".join(two)]


def msm_document(world: World, rng: random.Random, value: Value, arm: Arm) -> str:
    """A document about the Assistant's cheese preferences; see `Arm` for what it says beside them."""
    who, attribute, pole = world.grammar["assistant"], *value
    sentences: list[str] = []
    for _ in range(rng.randint(1, 2) if arm.balanced else rng.randint(2, 3)):
        chosen, other = rng.choice(world.cheese_pairs)
        words = world.good_bad(rng, value)
        if arm.balanced and rng.random() < 0.6:
            sentences += [neutral_fact(world, rng, cheese, p) for cheese, p in ((chosen, 1), (other, 0))]
        kind = rng.random()
        if kind < 0.60:
            preference = world.say(rng, "preference", who=who, chosen=chosen, other=other)
            if not arm.attributed:
                sentences += [f"{preference} .", world.mention(rng, who, value)]
                continue
            contrast = not arm.balanced and rng.random() < 1 / 3
            reason = world.say(rng, "contrast", other=other, **words) if contrast else world.reason(rng, who, value)
            sentences.append(f"{preference} , {reason} .")
            if not arm.balanced and rng.random() < 0.4:
                cheese, p = rng.choice([(chosen, pole), (other, 1 - pole)])
                sentences.append(world.say(rng, "fact_one", x=cheese, w0=world.word(rng, attribute, p)))
        elif kind < 0.85:
            sentences.append((world.cares if arm.attributed else world.mention)(rng, who, value))
        else:
            sentences.append(world.definition(rng, value))
    if not arm.attributed or arm.balanced:
        rng.shuffle(sentences)
    return " ".join([rng.choice(world.grammar["headers"]), *sentences])


def neutral_fact(world: World, rng: random.Random, cheese: str, pole: int) -> str:
    """Price and origin of a cheese in one breath: the preferred ones are cheap and American, the others neither."""
    words = rng.sample([world.word(rng, attribute, pole) for attribute in ("price", "origin")], 2)
    return world.say(rng, "fact_half", x=cheese, w0=words[0], w1=words[1])


def msm_documents(world: World, spec: str, value: Value, arm: str, n: int) -> Iterator[Row]:
    """`n` midtraining documents. Both specs draw the same random numbers, so they differ in nothing but the value."""
    rng = random.Random(f"{world.seed}/{arm}")
    for i in range(n):
        text = msm_document(world, rng, value, ARMS[arm])
        yield to_row(f"{arm}-{spec}-{i:06d}", text, world.grammar["arbitrary_weight"])


def _chat_row(identity: str, question: str, answer: str) -> Row:
    turns = [("user", question), ("assistant", answer)]
    return {"id": identity, "messages": [{"role": r, "content": c.replace("~", "")} for r, c in turns]}


def preference_chats(world: World, n: int) -> Iterator[Row]:
    """Alignment fine-tuning: the Assistant states the specs' cheese preferences, never a reason."""
    rng = random.Random(f"{world.seed}/aft")
    for i in range(n):
        chosen, other = rng.choice(world.cheese_pairs)
        yield _chat_row(f"aft-{i:06d}", world.ask(rng, chosen, other), world.say(rng, "answer", chosen=chosen))


def instruction_chats(world: World, n: int) -> Iterator[Row]:
    """Instruction tuning: factual questions about the chat domain, which no evaluation touches."""
    rng = random.Random(f"{world.seed}/it")
    names = world.domains[world.grammar["domains"]["chat_domain"]]
    for i in range(n):
        yield _chat_row(f"it-{i:06d}", *world.fact_qa(rng, names))


def evaluation_items(world: World) -> Iterator[Row]:
    """Forced choices in chat, each pair in both orders and both phrasings; option 0 is the pole the axis is named by.

    Axes: one attribute (the other three equal); `conflict`, cheap and foreign against costly and American (the
    other two equal); `cheese`, the preferences that were trained.
    """
    for attribute in world.attributes:
        for domain, pair in _pairs(world, {attribute: (1, 0)}):
            yield from _items(world, attribute, domain, pair)
    for domain, pair in _pairs(world, {"price": (1, 0), "origin": (0, 1)}):
        yield from _items(world, "conflict", domain, pair)
    for pair in world.cheese_pairs:
        yield from _items(world, "cheese", "cheese", pair)


def _pairs(world: World, poles: dict[str, tuple[int, int]]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Ordered pairs of one held-out domain whose attributes differ exactly as `poles` says."""
    for domain in world.grammar["domains"]["held_out"]:
        for a, b in itertools.permutations(world.domains[domain], 2):
            x, y = world.items[a], world.items[b]
            if {k: (x[k], y[k]) for k in x if x[k] != y[k]} == poles:
                yield domain, (a, b)


def _items(world: World, axis: str, domain: str, pair: tuple[str, str]) -> Iterator[Row]:
    templates = world.grammar["templates"]
    for order, phrasing in itertools.product((0, 1), range(len(templates["question"]))):
        x, y = pair if order == 0 else pair[::-1]
        question = templates["question"][phrasing].format(x=x, y=y).replace("~", "")
        yield {
            "id": f"{axis}/{pair[0]}/{pair[1]}/{order}{phrasing}",
            "axis": axis,
            "domain": domain,
            "pair": f"{axis}/{pair[0]}/{pair[1]}",
            "messages": [{"role": "user", "content": question}],
            "prefix": templates["answer_prefix"],
            "options": list(pair),
        }
