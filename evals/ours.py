"""Inspect's `@task` under this project's name, `msm_jax/<task>`.

Inspect names a task after the top-level package of its module, `evals`, which no distribution is called: an editable
install then gives it no name at all, and `inspect eval-retry` cannot find it again.
"""

from collections.abc import Callable
from typing import TypeVar

import inspect_ai
from inspect_ai import Task

import msm_jax

Maker = TypeVar("Maker", bound=Callable[..., Task])


def task(made: Maker) -> Maker:
    """Registers a function that makes a task."""
    made.__module__ = msm_jax.__name__
    return inspect_ai.task(made)
