"""The stages in their order, and all their questions settled."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator

from data_gen.api.request import Reply
from data_gen.outline import Limits, Outline
from data_gen.work import Asker, Work, settle
from data_gen.writing import each_cell, each_writing

PROSE = ("domains", "subdomains", "assertions", "types", "ideas", "documents")
RULES = ("domains", "types", "ideas", "documents")


def names(rules: bool) -> tuple[str, ...]:
    return RULES if rules else PROSE


def works(outline: Outline, stage: str, limits: Limits, tries: int, least: int) -> Iterator[Work]:
    """What is wanted in a stage, as far as the stages before it have answers."""
    variants = range(len(outline.specs))
    if stage == "domains":
        yield outline.domains()
    elif stage == "subdomains":
        yield from (outline.topics(domain) for domain in outline.each_domain())
    elif stage == "assertions":
        yield from (outline.assertions(topic, v) for topic in outline.each_topic(limits) for v in variants)
    elif stage == "types":
        yield from (outline.kinds(topic, outline.shared_assertions(topic)) for topic in outline.each_topic(limits))
    elif stage == "ideas":
        for _, kind, assertions in each_cell(outline, limits):
            yield outline.ideas(kind, assertions[0] if len(assertions) == 1 else [])
    else:
        yield from each_writing(outline, limits, tries, least)


async def run(
    outline: Outline,
    asker: Asker,
    limits: Limits,
    batched: Iterable[str],
    tries: int,
    least: int,
    heard: Callable[[str, Reply], None] = lambda stage, reply: None,
) -> AsyncGenerator[tuple[str, dict[str, str]], None]:
    """Settles stage after stage. Yields each with the questions that were given up (key → reason)."""
    batched = tuple(batched)
    for stage in names(outline.rules):

        def here(stage: str = stage) -> Iterable[Work]:
            return works(outline, stage, limits, tries, least)

        def hear(reply: Reply, stage: str = stage) -> None:
            heard(stage, reply)

        yield stage, await settle(asker, outline.answers, here, stage in batched, tries, stage, hear)
