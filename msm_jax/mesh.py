"""The device mesh. `jax.jit` with shardings is all there is to it: no pmap, no pjit import (jit became pjit)."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from msm_jax.cli import UserError
from msm_jax.model.config import ModelConfig
from msm_jax.sharding import AXES


def make_mesh(replica: int = 1, fsdp: int = -1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """An explicit mesh over `devices` (default: all); one axis may be -1, meaning whatever is left.

    Raises:
      UserError: the product of the axes is not the number of devices.
    """
    n = len(jax.devices() if devices is None else devices)
    shape = [replica, fsdp, tensor]
    if shape.count(-1) > 1 or any(size == 0 or size < -1 for size in shape):
        raise UserError(f"config.mesh = {shape}: positive sizes, at most one -1")
    if -1 in shape:
        rest = int(np.prod([size for size in shape if size != -1]))
        shape[shape.index(-1)] = n // rest if n % rest == 0 else 0
    if int(np.prod(shape)) != n:
        raise UserError(f"config.mesh: replica·fsdp·tensor of {replica}·{fsdp}·{tensor} cannot be {n} devices")
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Explicit,) * 3, devices=devices)


def check_mesh(cfg: ModelConfig, mesh: Mesh) -> None:
    """Raises UserError where a dimension of the model cannot be split over an axis."""
    for letter, axis in (("D", "fsdp"), ("H", "tensor"), ("K", "tensor"), ("F", "tensor"), ("V", "tensor")):
        if cfg.dims[letter] % mesh.shape[axis]:
            raise UserError(f"config.mesh.{axis} = {mesh.shape[axis]}: does not divide {letter} = {cfg.dims[letter]}")


def default_dtype() -> str:
    """Of the matrix products where nobody says another."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
