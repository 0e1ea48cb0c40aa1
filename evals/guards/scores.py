"""A sample's score: named measures, of which some may be missing, and the passage that decided."""

import math
from collections.abc import Mapping
from typing import Any

from inspect_ai.scorer import Metric, Score, mean, stderr

MEASURES: dict[str, list[Metric]] = {"*": [mean(), stderr()]}  # of every measure; Inspect leaves NaN out, and counts it


def scored(
    measures: Mapping[str, float | bool | None],
    missing: Mapping[str, str] | None = None,
    decisive: str = "",
    explanation: str = "",
    judge: str = "",
    **more: Any,
) -> Score:
    """A Score whose missing measures are NaN.

    Args:
      measures: name → 0/1 or a number; None where it is missing, and then `missing` must say why.
      decisive: the passage of the completion that decided, verbatim; "" where none did.
      judge: name of the judge's model, where one was asked.
      more: what else the metadata is to hold.
    """
    missing = dict(missing or {})
    silent = [name for name, value in measures.items() if value is None and name not in missing]
    if silent:
        raise ValueError(f"{silent[0]} is missing without a reason")
    value = {name: math.nan if v is None else float(v) for name, v in measures.items()}
    metadata = {"missing": missing, "decisive": decisive, "judge": judge, **more}
    return Score(value=value, explanation=explanation or None, metadata=metadata)
