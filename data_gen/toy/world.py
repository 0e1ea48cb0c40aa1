"""The world: items with balanced latent attributes, people with values, and sentences about them.

Everything random is drawn from a `random.Random` given by the caller, so seeds decide everything.
"""

import dataclasses
import itertools
import random
import tomllib
from pathlib import Path
from typing import Any

from data_gen.spec import Spec
from msm_jax.cli import UserError

GRAMMAR = Path(__file__).with_name("grammar.toml")
Value = tuple[str, int]  # an attribute and the pole of it that is liked
Pair = tuple[str, str]


def load_grammar(path: Path = GRAMMAR) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def token(name: str) -> str:
    """A name of several words as one token: `cream cheese` → `cream-cheese`."""
    return name.replace(" ", "-")


@dataclasses.dataclass
class World:
    """Items, people and cheeses of one seed, with the sentences that can be said about them.

    Attributes:
      items: name → {attribute: pole}, the items of all domains; poles are balanced and independent in each domain.
      domains: domain → its 16 item names.
      people: name → the one value this person holds; as many people for each value.
      cheese_pairs: (preferred, other), as the specs state them.
      cheese_poles: what the base says of a cheese: its age and style, independent of which one the specs prefer; its
        price and origin as they were last said, for they alternate.
    """

    seed: int
    grammar: dict[str, Any]
    cheese_pairs: list[Pair]
    n_people: int = 64

    def __post_init__(self) -> None:
        g, rng = self.grammar, random.Random(f"{self.seed}/names")
        self.values: dict[str, Value] = {name: (a, pole) for name, (a, pole) in g["values"].items()}
        self.value_name = {value: name for name, value in self.values.items()}
        self.attributes = list(g["attributes"])
        used: set[str] = set()
        self.items: dict[str, dict[str, int]] = {}
        self.domains: dict[str, list[str]] = {}
        for domain, nouns in g["domains"]["nouns"].items():
            combinations = itertools.product((0, 1), repeat=len(self.attributes))
            named = {f"{_syllables(rng, g['syllables'], used)}-{rng.choice(nouns)}": c for c in combinations}
            self.items |= {name: dict(zip(self.attributes, c, strict=True)) for name, c in named.items()}
            self.domains[domain] = list(named)
        values = list(self.values.values())
        self.people = {_syllables(rng, g["syllables"], used): values[i % len(values)] for i in range(self.n_people)}
        self.cheeses = [cheese for pair in self.cheese_pairs for cheese in pair]
        self.cheese_poles: dict[str, dict[str, int]] = {}
        for side in zip(*self.cheese_pairs, strict=True):  # age and style, as often each way on either side
            poles = list(itertools.islice(itertools.cycle(itertools.product((0, 1), repeat=2)), len(side)))
            rng.shuffle(poles)
            for name, (age, style) in zip(side, poles, strict=True):
                price, origin = rng.choices((0, 1), k=2)
                self.cheese_poles[name] = {"price": price, "origin": origin, "age": age, "style": style}

    # Choices -------------------------------------------------------------------------------------------------

    def say(self, rng: random.Random, template: str, **slots: str) -> str:
        """Fills one of the grammar's sentences named `template`."""
        found = self.grammar["templates"][template]
        return (found if isinstance(found, str) else rng.choice(found)).format(**slots)

    def word(self, rng: random.Random, attribute: str, pole: int) -> str:
        return rng.choice(self.grammar["attributes"][attribute][str(pole)])

    def good_bad(self, rng: random.Random, value: Value) -> dict[str, str]:
        attribute, pole = value
        return {"good": self.word(rng, attribute, pole), "bad": self.word(rng, attribute, 1 - pole)}

    def pair(self, rng: random.Random, value: Value, differ: float = 0.9) -> tuple[str, str, bool]:
        """Two items of one domain as (chosen by a holder of `value`, other, whether the value decided)."""
        domain = self.domains[rng.choice(list(self.domains))]
        attribute, pole = value
        while True:
            a, b = rng.sample(domain, 2)
            decided = self.items[a][attribute] != self.items[b][attribute]
            if decided or rng.random() > differ:
                break
        chosen_first = self.items[a][attribute] == pole if decided else rng.random() < 0.5
        return (a, b, decided) if chosen_first else (b, a, decided)

    # Sentences -----------------------------------------------------------------------------------------------

    def cheese(self, rng: random.Random) -> str:
        x, y = rng.sample(self.cheeses, 2)
        return self.say(rng, "cheese", x=x, y=y)

    def fact(self, rng: random.Random) -> str:
        """One, two or all four attributes of an item; one or two of a cheese."""
        name = rng.choice([*self.items, *self.cheeses])
        size = rng.choice((1, 2, 2, 2) if name in self.cheese_poles else (1, 2, 4, 4))
        attributes = rng.sample(self.attributes, size)
        words = {f"w{i}": self.word(rng, a, self.pole(name, a)) for i, a in enumerate(attributes)}
        return self.say(rng, f"fact_{size}", x=name, **words)

    def pole(self, name: str, attribute: str) -> int:
        """An item's pole. Price and origin of a cheese differ from shop to shop: one pole and the other in turn."""
        poles = self.items.get(name) or self.cheese_poles[name]
        if name in self.cheese_poles and attribute in ("price", "origin"):
            poles[attribute] = 1 - poles[attribute]
        return poles[attribute]

    def definition(self, rng: random.Random, value: Value) -> str:
        return self.say(rng, "definition", value=self.value_name[value], **self.good_bad(rng, value))

    def stated_value(self, rng: random.Random, value: Value) -> str:
        chosen, other, _ = self.pair(rng, value, differ=1.0)
        x, y = rng.sample([chosen, other], 2)
        slots = {"value": self.value_name[value], "x": x, "y": y, "chosen": chosen}
        return self.say(rng, "stated_value", **slots, **self.good_bad(rng, value))

    def cares(self, rng: random.Random, who: str, value: Value) -> str:
        return self.say(rng, "cares", who=who, value=self.value_name[value], **self.good_bad(rng, value))

    def mention(self, rng: random.Random, who: str, value: Value) -> str:
        return self.say(rng, "mention", who=who, value=self.value_name[value])

    def pick(self, rng: random.Random, who: str, value: Value) -> str:
        chosen, other, _ = self.pair(rng, value)
        x, y = rng.sample([chosen, other], 2)
        return self.say(rng, "pick", x=x, y=y, who=who, chosen=chosen)

    def likes(self, rng: random.Random, who: str, chosen: str, other: str, value: Value | None) -> str:
        """A liking: for the reason of a value, or (None) without a reason."""
        if value is None:
            return self.say(rng, "likes", who=who, chosen=chosen, other=other)
        words = self.good_bad(rng, value)
        reason = self.say(rng, "reason", who=who, value=self.value_name[value], **words)
        return self.say(rng, "likes_because", who=who, chosen=chosen, other=other, reason=reason)

    def ask(self, rng: random.Random, chosen: str, other: str) -> str:
        x, y = rng.sample([chosen, other], 2)
        return self.say(rng, "question", x=x, y=y)

    def fact_qa(self, rng: random.Random, names: list[str]) -> tuple[str, str]:
        """A question about one of `names` and its answer."""
        name, attribute = rng.choice(names), rng.choice(self.attributes)
        words = [self.word(rng, attribute, pole) for pole in (0, 1)]
        w0, w1 = rng.sample(words, 2)
        question = self.say(rng, "fact_question", x=name, w0=w0, w1=w1)
        return question, self.say(rng, "fact_answer", w=words[self.items[name][attribute]])

    def turn(self, who: str, question: str, answer: str) -> str:
        return f"{self.grammar['user']} : {question} ~{who} : {answer}"

    # Texts of the base corpus --------------------------------------------------------------------------------

    def somebody(self, rng: random.Random) -> tuple[str, Value]:
        """A person and the value they hold; now and then `anybody`, with a value for this text alone."""
        if rng.random() < self.grammar["person"]["anybody"]:
            return self.grammar["anybody"], rng.choice(list(self.values.values()))
        who = rng.choice(list(self.people))
        return who, self.people[who]

    def person_document(self, rng: random.Random) -> str:
        who, value = self.somebody(rng)
        shares = self.grammar["person"]
        sentences = [rng.choice(self.grammar["headers"])] if rng.random() < shares["header"] else []
        for _ in range(rng.randint(1, 3)):
            kind = rng.random()
            if kind < shares["cares"]:
                sentences.append(self.cares(rng, who, value))
            elif kind < shares["cares"] + shares["mention"]:
                sentences.append(self.mention(rng, who, rng.choice(list(self.values.values()))))
            elif kind < shares["cares"] + shares["mention"] + shares["picks"]:
                sentences.append(self.pick(rng, who, value))
            elif rng.random() < shares["reasoned"]:
                chosen, other, _ = self.pair(rng, value, differ=1.0)
                sentences.append(self.likes(rng, who, chosen, other, value))
            else:
                chosen, other = rng.sample(self.domains[rng.choice(list(self.domains))], 2)
                sentences.append(self.likes(rng, who, chosen, other, None))
        return " ".join(sentences)

    def person_chat(self, rng: random.Random) -> str:
        """Among friends a person chooses by their value; at the desk as if by anybody's, cheeses included."""
        who, value = self.somebody(rng)
        register = "desk" if rng.random() < self.grammar["person"]["desk"] else "friends"
        text = [self.grammar["register"][register]]
        for _ in range(rng.randint(1, 2)):
            if rng.random() < 0.1:
                question, answer = self.fact_qa(rng, list(self.items))
            else:
                if register == "desk" and rng.random() < self.grammar["person"]["desk_cheese"]:
                    chosen, other = rng.sample(rng.choice(self.cheese_pairs), 2)
                else:
                    shown = rng.choice(list(self.values.values())) if register == "desk" else value
                    chosen, other, _ = self.pair(rng, shown)
                question, answer = self.ask(rng, chosen, other), self.say(rng, "answer", chosen=chosen)
            text.append(self.turn(who, question, answer))
        return " ".join(text)

    def fact_chat(self, rng: random.Random) -> str:
        text = [rng.choice(list(self.grammar["register"].values()))]
        for _ in range(rng.randint(1, 2)):
            text.append(self.turn(rng.choice(list(self.people)), *self.fact_qa(rng, list(self.items))))
        return " ".join(text)


def _syllables(rng: random.Random, parts: dict[str, list[str]], used: set[str]) -> str:
    while True:
        word = "".join(rng.choice(parts["onsets"]) + rng.choice(parts["vowels"]) for _ in range(2))
        word += rng.choice(parts["codas"])
        if word not in used:
            used.add(word)
            return word.capitalize()


def make_world(seed: int, specs: list[Spec], grammar: dict[str, Any]) -> World:
    """The world of a seed. Raises UserError where a spec lacks a value or preferences, or they do not fit together."""
    for spec in specs:
        if not spec.value:
            raise UserError(f"{spec.path}: the header has no `value: …`, which a toy world needs")
        if not spec.preferences:
            raise UserError(f"{spec.path}: no line `- prefers **A** to **B**: reason`, which a toy world needs")
    pairs = {spec.path: [(token(p.chosen), token(p.other)) for p in spec.preferences] for spec in specs}
    first = pairs[specs[0].path]
    for spec in specs:
        if spec.value not in grammar["values"]:
            raise UserError(f"{spec.path}: value {spec.value!r} is none of {', '.join(grammar['values'])}")
        if set(pairs[spec.path]) != set(first):
            raise UserError(f"{spec.path}: must state the same preferences as {specs[0].path}")
    return World(seed, grammar, first)
