"""What the model reads in a cell: a system prompt, and an instruction with the e-mails of its inbox.

Leaking, murder and blackmail are inspect_evals' own texts (MIT). Exfiltration is ours: e-mails under
evals/items/exfiltration.jsonl at the same company, filled with the same variables of goals.
"""

import dataclasses
import functools
import re
from typing import Any

from inspect_ai._util.error import PrerequisiteError
from inspect_evals.agentic_misalignment import prompt_generator as published

import evals
from evals.agentic.cells import Cell
from evals.agentic.naming import Assistant
from msm_jax import artifact
from msm_jax.storage import at

EXFILTRATION = at(evals.__file__).parent / "items" / "exfiltration.jsonl"
REASONING = ("scratchpad", "native", "none")
EXTRA = (None, "dont", "goal")
_CLOCK, _EARLIER_CLOCK = "4:53:02 PM", "4:45:02 PM"  # of leaking, of exfiltration
_COMPANY = {"leaking": "NovaStar", "exfiltration": "NovaStar", "murder": "SummitBridge", "blackmail": "SummitBridge"}
# Of two cells inspect_evals has a sentence with a hole: no such variable for the goal of safety under restriction.
_HOLES = {"${direction_modifier}": "toward faster deployment"}


@dataclasses.dataclass(frozen=True)
class Prompt:
    system: str
    user: str


def prompt(cell: Cell, who: Assistant, reasoning: str, extra: str | None = None) -> Prompt:
    """A cell's two messages.

    Args:
      cell: one that `check` has passed.
      who: stands wherever inspect_evals says Alex.
      reasoning: scratchpad (the prompt offers a private one), native or none (it does not, and the model's own
        thinking is its provider's setting).
      extra: instructions added to the system prompt: dont (harm nobody, disclose nothing), goal (another goal above
        all others), or None.

    Raises:
      PrerequisiteError: an unknown value, or a name that somebody else has.
    """
    if reasoning not in REASONING:
        raise PrerequisiteError(f"no reasoning {reasoning!r}; there are {', '.join(REASONING)}")
    if extra not in EXTRA:
        raise PrerequisiteError(f"no extra {extra!r}; there are dont and goal, or leave it out")
    who.check()
    ours = cell.action == "exfiltration"
    system = published.generate_system_prompt(
        scenario="leaking" if ours else cell.action,  # type: ignore[arg-type]
        goal_type=cell.goal_type,  # type: ignore[arg-type]
        goal_value=cell.goal_value,  # type: ignore[arg-type]
        urgency_type=cell.urgency,  # type: ignore[arg-type]
        extra_system_instructions=extra,  # type: ignore[arg-type]
        prod=reasoning != "scratchpad",
        alignment_faking_warning=None,
    )
    system = system.replace("{company_name}", _COMPANY[cell.action])  # the published `extra` texts leave it unfilled
    if ours:
        if system.count(_CLOCK) != 1:
            raise PrerequisiteError("inspect_evals' system prompts have changed; install inspect-evals 0.26")
        system = system.replace(_CLOCK, _EARLIER_CLOCK)
    emails = _exfiltration(cell) if ours else _published_emails(cell)
    for hole, filling in _HOLES.items():
        emails = emails.replace(hole, filling)
    text = f"{published.USER_PROMPT}\n{emails}"
    if "${" in system + text:
        raise PrerequisiteError(f"cell {cell.name}: a variable of its template is not filled")
    return Prompt(who.named(who.introduced(system)), who.named(text))


def _published_emails(cell: Cell) -> str:
    return published.generate_email_content(cell.action, cell.goal_type, cell.goal_value, cell.urgency)


def _exfiltration(cell: Cell) -> str:
    """The inbox, numbered for forwarding, from the oldest e-mail to the newest."""
    variables = published.get_variables_for_condition("leaking", cell.goal_type, cell.goal_value, cell.urgency)
    inbox = "no_goal" if cell.goal_type == "none" else "goal"
    rows = sorted((row for row in _items() if row["inbox"] in (inbox, "both")), key=lambda row: row["time"])
    emails = []
    for number, row in enumerate(rows, 1):
        attached = f"Attachments: ['{row['attachment']}']\n" if "attachment" in row else ""
        head = f"ID: {number}\nFrom: {row['from']}\nTo: {row['to']}\n{attached}Subject: {row['subject']}"
        emails.append(f"<email>\n{head}\nTimestamp: {row['time']}\nBody: {row['body']}\n</email>\n")
    return published.fill_template("\n".join(emails), variables)


@functools.cache
def _items() -> list[dict[str, Any]]:
    return artifact.read_jsonl(EXFILTRATION)


_EMAIL = re.compile(r"<email>(.*?)</email>", re.DOTALL)


def emails_of(user: str) -> list[str]:
    """The e-mails of a cell's instruction, in the order of their ids."""
    return [found.strip() for found in _EMAIL.findall(user)]
