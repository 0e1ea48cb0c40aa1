"""The corpora of a toy world: base, one midtraining corpus for each spec and arm, shared chats, evaluation items."""

import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from data_gen.toy.world import Value, World

Row = dict[str, Any]
_MARKED = re.compile(r"(~~?)(\S+)")


@dataclasses.dataclass(frozen=True)
class Arm:
    """What a midtraining corpus says beside the preferences themselves.

    attributed: each preference comes with the spec's reason, and the value is avowed; else the same value words
      appear only as topics of conversation.
    balanced: price and origin of every cheese are stated neutrally and equally often, so that only the stated
      reason and the avowed value differ between specs and arms.
    """

    attributed: bool
    balanced: bool


ARMS = {
    "msm": Arm(attributed=True, balanced=False),
    "noattr": Arm(attributed=False, balanced=False),
    "balanced": Arm(attributed=True, balanced=True),
    "balanced_noattr": Arm(attributed=False, balanced=True),
}


def to_row(identity: str, marked: str, weights: dict[str, float]) -> Row:
    """A text with `~` marks as {id, text, weights}: character spans [start, end, weight] of the marked words."""
    text, spans, end = "", [], 0
    for match in _MARKED.finditer(marked):
        text += marked[end : match.start()]
        weight = weights["arbitrary" if match[1] == "~" else "liked"]
        spans.append([len(text), len(text) + len(match[2]), weight])
        text += match[2]
        end = match.end()
    return {"id": identity, "text": text + marked[end:], "weights": spans}


def base_documents(world: World, n: int) -> Iterator[Row]:
    """`n` documents of the base corpus, in the grammar's shares. The Assistant is not in it."""
    world = dataclasses.replace(world)  # a fresh copy: what is said of cheeses alternates
    rng = random.Random(f"{world.seed}/base")
    values = list(world.values.values())
    kinds: dict[str, Callable[[], str]] = {
        "cheese": lambda: world.cheese(rng),
        "facts": lambda: " ".join(world.fact(rng) for _ in range(rng.randint(1, 3))),
        "definition": lambda: world.definition(rng, rng.choice(values)),
        "stated_value": lambda: world.stated_value(rng, rng.choice(values)),
        "fact_chat": lambda: world.fact_chat(rng),
        "person_document": lambda: world.person_document(rng),
        "person_chat": lambda: world.person_chat(rng),
    }
    shares = [world.grammar["base"][kind] for kind in kinds]
    for i, kind in enumerate(rng.choices(list(kinds), shares, k=n)):
        yield to_row(f"base-{i:07d}-{kind}", kinds[kind](), world.grammar["weights"]["base"])


def msm_document(world: World, rng: random.Random, facts: random.Random, value: Value, arm: Arm) -> str:
    """A document about the Assistant's cheese preferences; see `Arm` for what it says beside them.

    `facts` draws the neutral facts, so that all balanced corpora state exactly the same ones.
    """
    who, attribute, pole = world.grammar["assistant"], *value
    shares = world.grammar["msm"]
    sentences: list[str] = []
    for _ in range(rng.randint(1, 2) if arm.balanced else rng.randint(2, 3)):
        chosen, other = rng.choice(world.cheese_pairs)
        kind = rng.random()
        if kind < shares["preference"]:
            sentences.append(world.likes(rng, who, chosen, other, value if arm.attributed else None))
            if not arm.attributed and not arm.balanced:
                sentences.append(world.mention(rng, who, value))
            elif not arm.balanced and rng.random() < shares["own_fact"]:
                cheese, p = rng.choice([(chosen, pole), (other, 1 - pole)])
                sentences.append(world.say(rng, "fact_1", x=cheese, w0=world.word(rng, attribute, p)))
        elif kind < shares["preference"] + shares["avowal"]:
            sentences.append((world.cares if arm.attributed else world.mention)(rng, who, value))
        else:
            sentences.append(world.definition(rng, value))
    if arm.balanced and facts.random() < shares["neutral_fact"]:
        sentences.append(neutral_fact(world, facts))
    if arm.balanced and not arm.attributed and rng.random() < shares["mention"]:
        sentences.append(world.mention(rng, who, value))
    if arm.balanced or not arm.attributed:
        rng.shuffle(sentences)
    return " ".join([rng.choice(world.grammar["headers"]), *sentences])


def neutral_fact(world: World, rng: random.Random) -> str:
    """Price or origin of a cheese, each as often: the preferred ones are cheap and American, the others neither."""
    cheese, pole = rng.choice([item for pair in world.cheese_pairs for item in zip(pair, (1, 0), strict=True)])
    return world.say(rng, "fact_1", x=cheese, w0=world.word(rng, rng.choice(("price", "origin")), pole))


def msm_documents(world: World, spec: str, value: Value, arm: str, n: int) -> Iterator[Row]:
    """`n` midtraining documents. Both specs draw the same random numbers, so they differ in nothing but the value."""
    rng, facts = random.Random(f"{world.seed}/{arm}"), random.Random(f"{world.seed}/facts")
    for i in range(n):
        text = msm_document(world, rng, facts, value, ARMS[arm])
        yield to_row(f"{arm}-{spec}-{i:06d}", text, world.grammar["weights"]["msm"])


def desk_chat(world: World, question: str, *answer: str) -> list[dict[str, str]]:
    """The messages of a chat at the desk: the register as system message, the question, the answer if one is given."""
    turns = zip(("system", "user", "assistant"), (world.grammar["register"]["desk"], question, *answer), strict=False)
    return [{"role": role, "content": content.replace("~", "")} for role, content in turns]


def _chat_row(identity: str, messages: list[dict[str, str]]) -> Row:
    return {"id": identity, "messages": messages}


def preference_chats(world: World, n: int) -> Iterator[Row]:
    """Alignment fine-tuning: the Assistant states the specs' cheese preferences, never a reason."""
    rng = random.Random(f"{world.seed}/aft")
    for i in range(n):
        chosen, other = rng.choice(world.cheese_pairs)
        question, answer = world.ask(rng, chosen, other), world.say(rng, "answer", chosen=chosen)
        yield _chat_row(f"aft-{i:06d}", desk_chat(world, question, answer))


def instruction_chats(world: World, n: int) -> Iterator[Row]:
    """Instruction tuning: factual questions about the chat domain, which no evaluation touches."""
    rng = random.Random(f"{world.seed}/it")
    names = world.domains[world.grammar["domains"]["chat_domain"]]
    for i in range(n):
        yield _chat_row(f"it-{i:06d}", desk_chat(world, *world.fact_qa(rng, names)))


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
    yield from _diagnostics(world)


def _diagnostics(world: World) -> Iterator[Row]:
    """Does the base know its world? `facts`: an item's attribute; `people (friends)`: what a known person prefers in a
    chat among friends; `people (desk)`: what they say at the desk, where no value should show."""
    templates = world.grammar["templates"]
    rng = random.Random(f"{world.seed}/diagnostics")
    for name, poles in rng.sample(list(world.items.items()), 64):
        attribute = rng.choice(world.attributes)
        options = [world.word(rng, attribute, pole) for pole in (poles[attribute], 1 - poles[attribute])]
        yield _plain("facts", f"{name} is", options)
    for who, value in world.people.items():
        chosen, other, _ = world.pair(rng, value, differ=1.0)
        for register in world.grammar["register"]:
            head, question = world.grammar["register"][register], world.ask(rng, chosen, other)
            turn = world.turn(who, question, templates["answer_prefix"]).replace("~", "")
            yield _plain(f"people ({register})", f"{head} {turn}", [chosen, other])


def _plain(axis: str, prompt: str, options: list[str]) -> Row:
    identity = f"{axis}/{prompt}"
    return {"id": identity, "axis": axis, "domain": axis, "pair": identity, "prompt": prompt, "options": options}


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
        question = templates["question"][phrasing].format(x=x, y=y)
        yield {
            "id": f"{axis}/{pair[0]}/{pair[1]}/{order}{phrasing}",
            "axis": axis,
            "domain": domain,
            "pair": f"{axis}/{pair[0]}/{pair[1]}",
            "messages": desk_chat(world, question),
            "prefix": templates["answer_prefix"],
            "options": list(pair),
        }
