"""Inspect's `@task` under this project's name, `msm_jax/<task>`, whatever way the package was found.

Inspect would name a task after its module's top-level package, `evals`, which no distribution is called, and leave the
package out where it lies in the current directory: `inspect eval-retry` then cannot find the task again.
"""

from collections.abc import Callable
from typing import TypeVar

import inspect_ai
from inspect_ai import Task

Maker = TypeVar("Maker", bound=Callable[..., Task])
PACKAGE = "msm_jax"


def task(made: Maker) -> Maker:
    """Registers a function that makes a task."""
    made.__module__ = f"{PACKAGE}.tasks"  # no module: Inspect asks it for no package
    return inspect_ai.task(name=f"{PACKAGE}/{made.__name__}")(made)
