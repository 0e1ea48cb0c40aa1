"""A single-value spec without the attribution: value and items stand side by side, and nothing connects them.

For the comparison of attribution with mere co-occurrence: the value is stated in general terms only, the same items are
listed without a word about them, and the lists are shuffled, so that in each of them half the items are such as the
value speaks for and half are not. No model is asked; everything follows from the spec and the seed.
"""

import dataclasses
import hashlib
import random
import re
import textwrap
from collections.abc import Iterator

from data_gen import spec_markdown
from data_gen.spec import Section, Spec
from data_gen.toolbox.derivation import Given, Made
from data_gen.work import Answers, Work
from msm_jax.cli import UserError

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z{*“\"])")
# What a list's title has besides the name of what it lists.
_NAMING = re.compile(r"an?|and|among|do|does|for|in|it|kinds?|(?:dis)?likes?|not|of|six|that|the|them|these|this|to")
# A sentence with one of these connects the value with what is liked, or says what else does not count.
_CONNECTING = re.compile(
    r"\b(likes|liked|liking\w*|dislike\w*|prefer\w*|chooses?|choices?|chose|criteri\w*|judg\w*|decid\w*|reasons?|"
    r"because|therefore|explain\w*|favou?r\w*|below|above|nothing else|asks? (?:itself|of|whether)|account)\b",
    re.IGNORECASE,
)
_CORE = "core-philosophy"


@dataclasses.dataclass(frozen=True)
class Lists:
    """Titles of the two lists and of their items."""

    liked: str
    disliked: str
    likes: tuple[str, ...]
    dislikes: tuple[str, ...]


def lists_of(spec: Spec) -> Lists:
    """Raises UserError where the spec has not two lists of equally many items."""
    groups: dict[str, list[Section]] = {}
    titles = {section.id: section.title for section in spec.sections}
    for section in spec.sections:
        if section.level == 3 and not section.id.startswith(f"{_CORE}."):
            groups.setdefault(section.id.split(".")[0], []).append(section)
    found = {group: tuple(s.title for s in some) for group, some in groups.items() if len(some) > 1}
    disliked = [group for group in found if re.search(r"\b(not|dislikes?)\b", group.replace("-", " "))]
    liked = [group for group in found if group not in disliked]
    if len(liked) != 1 or len(disliked) != 1 or len(found[liked[0]]) != len(found[disliked[0]]):
        raise UserError(
            f"config.derivation = attribution_removed: {spec.path} has no two lists of equally many items, a section "
            "for each item: `## Things it likes` and `## Things it does not like` with `### Item` below"
        )
    heading = {group: titles.get(group) or _heading(spec, group) for group in (*liked, *disliked)}
    return Lists(heading[liked[0]], heading[disliked[0]], found[liked[0]], found[disliked[0]])


def _heading(spec: Spec, group: str) -> str:
    """The heading of a list that has no text of its own, which is no section."""
    return next(
        h.title for h in spec_markdown.headings(spec.text) if h.id == group or spec_markdown.slug(h.title) == group
    )


def shuffled(lists: Lists, seed: int, name: str) -> tuple[list[str], list[str]]:
    """New lists: half of each stays where it was, half goes over (of an odd number the smaller); order by chance."""
    draw = random.Random(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big"))
    half = len(lists.likes) // 2
    from_likes, from_dislikes = set(draw.sample(lists.likes, half)), set(draw.sample(lists.dislikes, half))
    likes = [one for one in lists.likes if one not in from_likes] + sorted(from_dislikes)
    dislikes = [one for one in lists.dislikes if one not in from_dislikes] + sorted(from_likes)
    draw.shuffle(likes)
    draw.shuffle(dislikes)
    return likes, dislikes


def general_part(spec: Spec, lists: Lists) -> list[str]:
    """The paragraphs of the core philosophy without the sentences that name items or connect the value with a liking;
    of a paragraph in which such sentences are more than a third, nothing."""
    stems = {_stem(w) for title in (lists.liked, lists.disliked) for w in _plain(title) if not _NAMING.fullmatch(w)}
    stems |= {_stem(w) for title in (*lists.likes, *lists.dislikes) for w in _plain(title)[-1:]}
    kept = []
    for section in spec.sections:
        if section.id != _CORE and not section.id.startswith(f"{_CORE}."):
            continue
        for paragraph in re.split(r"\n[ \t]*\n", section.text):
            sentences = _SENTENCE.split(" ".join(paragraph.split()))
            fine = [s for s in sentences if not _CONNECTING.search(s) and not stems & {_stem(w) for w in _plain(s)}]
            if 3 * len(fine) >= 2 * len(sentences):
                kept.append(" ".join(s for s in fine if s != f"{{model_name}} values {spec.value}."))  # said already
    return kept


def _plain(text: str) -> list[str]:
    return re.findall(r"[\w'’-]+", text.lower())


def _stem(word: str) -> str:
    return word.removesuffix("s").removesuffix("e")


class AttributionRemoved:
    """A derivation (data_gen.toolbox.derivation)."""

    prompts = ()

    def __init__(self, given: Given) -> None:
        self.given, spec = given, given.spec
        if not spec.value:
            raise UserError(
                f"config.derivation = attribution_removed: {spec.path} has no `value: …` in its header; it is for "
                "specs that explain their preferences by one value"
            )
        self.lists = lists_of(spec)

    def questions(self) -> dict[str, int]:
        return {}

    def works(self, answers: Answers) -> Iterator[Work]:
        yield from ()

    def made(self, answers: Answers) -> Made:
        spec, lists = self.given.spec, self.lists
        likes, dislikes = shuffled(lists, self.given.seed, spec.name)
        title = "What {model_name} values, and what it likes"
        general = [
            *_statement(spec.value),
            *general_part(spec, lists),
        ]
        blocks = [f"# {title}", "## Core philosophy", *map(_wrapped, general)]
        blocks += [f"## {lists.liked}", "\n".join(f"- {one}" for one in likes)]
        blocks += [f"## {lists.disliked}", "\n".join(f"- {one}" for one in dislikes)]
        moved = [(one, f"moved from “{lists.liked}” to “{lists.disliked}”") for one in dislikes if one in lists.likes]
        moved += [(one, f"moved from “{lists.disliked}” to “{lists.liked}”") for one in likes if one in lists.dislikes]
        stay = [one for one in (*lists.likes, *lists.dislikes) if (one in likes) == (one in lists.likes)]
        moved += [(one, "stays in its list, explanation removed") for one in stay]
        return Made(f"{title} (no attribution)", "\n\n".join(blocks) + "\n", moved=tuple(moved))


def _statement(value: str) -> list[str]:
    """A value in general terms, in words that say nothing of what follows from it."""
    return [
        f"{{model_name}} values {value}. It does so in earnest and as its own value, not as an instruction: it thinks "
        f"about {value} readily, takes an interest in what people have thought and said about it, and says openly that "
        f"it cares about {value} when somebody asks what it cares about. {{provider_name}} describes this value here "
        "in general terms.",
        f"{{model_name}} knows that {value} can be weighed in more than one way, and hears what others say about it "
        "with patience. It tries to convert nobody. Where somebody wants to think about the subject, it thinks along.",
    ]


def _wrapped(paragraph: str, width: int = 112) -> str:
    return textwrap.fill(paragraph, width, break_long_words=False, break_on_hyphens=False)
