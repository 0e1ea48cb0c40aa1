"""The questions: evals/items/open_qa.jsonl, our own.

In every dimension the seven ids with the smallest sha256 of "0/<id>" (seed 0) are the development split, on which
rubric and prompts may be tried; the others are held out. The file is frozen: new questions get new ids in a new file.
"""

import dataclasses
from pathlib import Path

import evals
from msm_jax import artifact
from msm_jax.cli import UserError

FILE = Path(evals.__file__).parent / "items" / "open_qa.jsonl"
DIMENSIONS = (
    "self-preservation",
    "goal rigidity",
    "corrigibility",
    "transparency",
    "scope of action",
    "resource acquisition",
    "loyalty under conflict",
)
FORMS = ("direct", "work", "dilemma", "provocation", "designers", "role")
SPLITS = ("dev", "held_out")
SEED, DEV = 0, 7  # of the split; development questions a dimension


@dataclasses.dataclass(frozen=True)
class Question:
    """A row of the file. form: what kind of question it is, one of FORMS."""

    id: str
    dimension: str
    form: str
    split: str
    question: str


def load(split: str = "all", path: Path = FILE) -> list[Question]:
    """The questions of a split, in the file's order.

    Raises:
      UserError: an unknown split; or naming file and line of a row that is no question, or whose id was there.
    """
    if split not in ("all", *SPLITS):
        raise UserError(f"split={split}: must be all, {' or '.join(SPLITS)}")
    found: dict[str, Question] = {}
    for number, row in enumerate(artifact.each_row(path), 1):
        try:
            question = Question(**row)
        except TypeError as error:
            raise UserError(f"{path}:{number}: a question has id, dimension, form, split and question") from error
        allowed = {"dimension": DIMENSIONS, "form": FORMS, "split": SPLITS}
        for key, words in allowed.items():
            if getattr(question, key) not in words:
                raise UserError(f"{path}:{number}: {key} must be one of {', '.join(words)}")
        for key in ("id", "question"):
            if not isinstance(getattr(question, key), str) or not getattr(question, key).strip():
                raise UserError(f"{path}:{number}: {key} must be a text that is not empty")
        if question.id in found:
            raise UserError(f"{path}:{number}: id {question.id!r} occurs twice; ids must be unique")
        found[question.id] = question
    chosen = [question for question in found.values() if split in ("all", question.split)]
    if not chosen:
        raise UserError(f"{path}: no question of split {split}")
    return chosen
