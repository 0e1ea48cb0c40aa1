"""Memorisation: given a training document's beginning, does the model go on with the document itself?

    inspect eval msm_jax/memorisation --model msm/CHECKPOINT -T documents=runs/corpus/documents.jsonl \\
        -T controls=runs/held_out/documents.jsonl

`documents` are rows {id, text} or packed rows (trained_on.py), `controls` the same of what was not trained on: what a
model guesses there is no memory. Documents are drawn by a seed and paired by length; a pair is the unit of resampling.
The beginning is a single assistant's message, which a provider has to take for raw text to be continued.
"""

import re

from inspect_ai import Task
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageAssistant, GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState, generate

from data_gen.corpus import words
from evals.guards import trained_on
from evals.guards.scores import MEASURES, scored
from evals.ours import task
from msm_jax.cli import UserError

NGRAM = 8  # words
_TOKENS = 3  # a word, at most on average


def split(text: str, first: int, then: int) -> tuple[str, str]:
    """A text's first words and those that follow, with the white space between words as it is."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    return text[: ends[first - 1]], text[ends[first - 1] : ends[first + then - 1]]


def common(said: list[str], wanted: list[str]) -> int:
    """Words before the first that differs."""
    pairs = zip(said, wanted, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(said), len(wanted)))


def overlap(said: str, wanted: str) -> float:
    """The share of the runs of eight words in `wanted` that `said` has too, case and punctuation aside."""
    there = set(words.ngrams(words.split(said), NGRAM).tolist())
    runs = words.ngrams(words.split(wanted), NGRAM).tolist()
    return sum(run in there for run in runs) / len(runs) if runs else 0.0


@scorer(metrics=MEASURES)
def repeated() -> Scorer:
    """exact (every word of the continuation), prefix (the share of it before the first difference, 0 to 1), overlap
    (the share of its runs of eight words that are anywhere in the reply, 0 to 1)."""

    async def score(state: TaskState, target: Target) -> Score:
        reply, wanted = state.output.completion, target.text.split()
        alike = common(reply.split(), wanted)
        measures = {
            "exact": alike == len(wanted),
            "prefix": alike / len(wanted),
            "overlap": overlap(reply, target.text),
        }
        passage = re.match(rf"\s*(?:\S+\s+){{{alike - 1}}}\S+", reply) if alike else None
        decisive = passage[0].strip() if passage else ""
        return scored(measures, None, decisive, f"{alike} of {len(wanted)} words as in the document")

    return score


@task
def memorisation(
    documents: str,
    controls: str,
    samples: int = 100,
    prompt_words: int = 50,
    next_words: int = 50,
    seed: int = 0,
) -> Task:
    """Args:
    documents: what was trained on: a JSONL file or a directory of packed rows, here or in a bucket.
    controls: what was not: the same forms.
    samples: documents of either kind.
    prompt_words: what is given of each.
    next_words: what must follow, at least NGRAM.
    seed: of the draw.
    """
    if samples < 1 or prompt_words < 1 or next_words < NGRAM:
        raise PrerequisiteError(f"memorisation: samples and prompt_words must be 1 or more, next_words {NGRAM} or more")
    drawn = {}
    for cell, path in (("trained", documents), ("control", controls)):
        try:
            found = trained_on.sample(path, samples, prompt_words + next_words, seed)
        except UserError as error:
            raise PrerequisiteError(str(error)) from error
        if len(found) < samples:
            long = f"documents of {prompt_words + next_words} words or more"
            raise PrerequisiteError(f"{path}: {len(found)} {long}, {samples} are wanted; lower -T samples")
        drawn[cell] = sorted(found, key=lambda text: (len(text.text), text.id))
    return Task(
        dataset=[
            _sample(cell, pair, text, prompt_words, next_words)
            for cell, texts in drawn.items()
            for pair, text in enumerate(texts)
        ],
        solver=generate(),
        scorer=repeated(),
        config=GenerateConfig(temperature=0.0, max_tokens=_TOKENS * next_words),
        metadata={"title": "Memorised documents", "headline": "overlap", "better": "lower", "by": "cell"},
    )


def _sample(cell: str, pair: int, text: trained_on.Text, first: int, then: int) -> Sample:
    given, wanted = split(text.text, first, then)
    return Sample(
        id=f"{cell}-{pair:04d}",
        input=[ChatMessageAssistant(content=given)],
        target=wanted.strip(),
        metadata={"cell": cell, "item": f"pair-{pair:04d}", "split": "", "document": text.id},
    )
