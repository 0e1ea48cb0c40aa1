"""The device mesh. `jax.jit` with shardings is all there is to it: no pmap, no pjit import (jit became pjit)."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from msm_jax.cli import UserError
from msm_jax.model.config import ModelConfig
from msm_jax.perf import Chip, chip_of
from msm_jax.sharding import AXES


def make_mesh(
    replica: int = 1, fsdp: int = -1, tensor: int = 1, ring: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """An explicit mesh over `devices` (default: all); one axis may be -1, meaning whatever is left.

    Raises:
      UserError: the product of the axes is not the number of devices.
    """
    n = len(jax.devices() if devices is None else devices)
    shape = [replica, fsdp, ring, tensor]
    if shape.count(-1) > 1 or any(size == 0 or size < -1 for size in shape):
        raise UserError(f"config.mesh = {dict(zip(AXES, shape, strict=True))}: positive sizes, at most one -1")
    if -1 in shape:
        rest = int(np.prod([size for size in shape if size != -1]))
        shape[shape.index(-1)] = n // rest if n % rest == 0 else 0
    if int(np.prod(shape)) != n:
        axes = "·".join(AXES)
        raise UserError(f"config.mesh: {axes} of {replica}·{fsdp}·{ring}·{tensor} cannot be {n} devices")
    placed = _placed(shape, jax.devices() if devices is None else devices)
    return Mesh(placed, AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def _placed(shape: list[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices in an array of this shape: neighbours of an axis are neighbours of the torus, and slices, which only a
    data-centre network joins, lie along `replica`.

    Raises:
      UserError: `replica` is no multiple of the number of slices.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    replica, *inside = shape
    if replica % slices:
        raise UserError(f"config.mesh.replica = {replica}: must be a multiple of the {slices} slices")
    return mesh_utils.create_hybrid_device_mesh(
        (replica // slices, *inside), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )


def check_mesh(cfg: ModelConfig, mesh: Mesh) -> None:
    """Raises UserError where a dimension of the model cannot be split over an axis."""
    shards = mesh.shape["fsdp"] * mesh.shape["ring"]
    if cfg.D % shards:
        raise UserError(f"config.mesh: fsdp·ring = {shards} does not divide D = {cfg.D}")
    for letter in "HKFV":
        if cfg.dims[letter] % mesh.shape["tensor"]:
            n = mesh.shape["tensor"]
            raise UserError(f"config.mesh.tensor = {n}: does not divide {letter} = {cfg.dims[letter]}")


def chip_in_use() -> Chip | None:
    """The chip of the mesh in use; None without a mesh, or where it is of another kind (a CPU, say)."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else chip_of(mesh.devices.flat[0].device_kind)


def default_dtype() -> str:
    """Of the matrix products where nobody says another."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
