"""Hugging Face tensors ↔ our sharded arrays, one tensor at a time.

The parameter table says where everything goes. A Hugging Face matrix is [out, in] and of one layer, ours is
[in…, out…] and stacked over layers: tensors are read one by one, cut for the local devices, and turned and put in
their place on the device, so the host never holds more than the few tensors that are on their way.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.cli import UserError
from msm_jax.hf.safetensors import Spec, Tensors
from msm_jax.model.config import Dims, Param, leaf_at, tree_of
from msm_jax.model.lora import LoraConfig, added
from msm_jax.sharding import param_spec

Tree = dict[str, Any]
Table = Mapping[str, Param]
AT_ONCE = 4  # parameters that are filled side by side, each holding one tensor in the host's memory
IGNORED = ("rotary_emb.inv_freq",)  # buffers that old checkpoints carry


def names_of(table: Table, dims: Dims) -> Iterator[tuple[str, int, str]]:
    """(path, layer, Hugging Face name) of every tensor; layer is 0 where the parameter is not stacked."""
    for path, param in table.items():
        for layer in range(dims["L"] if param.stacked else 1):
            yield path, layer, param.hf.format(layer)


def check(tensors: Tensors, table: Table, dims: Dims, *, tied: bool = False) -> None:
    """Raises UserError naming the file and the first tensor that is missing, misshaped or unknown."""
    names = set(tensors.names())
    expected = {name: table[path].hf_shape(dims) for path, _, name in names_of(table, dims)}
    for name, shape in expected.items():
        if name not in names:
            raise UserError(f"{tensors.path}: tensor {name} is missing; copy the model again")
        if tensors.shape(name) != shape:
            raise UserError(
                f"{tensors.file(name)}: tensor {name} is {list(tensors.shape(name))}, expected {list(shape)}"
            )
        tensors.dtype(name)  # complains of one that cannot be read
    for name in sorted(names - set(expected)):
        if not (name.endswith(IGNORED) or (tied and name == "lm_head.weight")):
            raise UserError(f"{tensors.file(name)}: tensor {name} is none of this model's; is config.json another's?")


def load(tensors: Tensors, table: Table, dims: Dims, dtype: str, progress: Callable[[int], None] | None = None) -> Tree:
    """All arrays of the table in `dtype`, on the mesh in use; `progress` hears of every tensor's bytes.

    A few parameters are filled at a time, each tensor after tensor; of several processes each fills one at a time,
    because all must start their programs in the same order. A host reads the rows that its devices hold.
    """
    mesh = jax.sharding.get_mesh()

    def fill(path: str) -> jax.Array:
        param = table[path]
        place = jax.NamedSharding(mesh, param_spec(param.letters))
        with jax.sharding.set_mesh(mesh):  # the mesh in use belongs to a thread
            array = None
            if param.stacked:
                empty = functools.partial(jnp.zeros, param.shape(dims), dtype)
                array = jax.jit(empty, out_shardings=place)()
            turn = _turner(param, tuple(dims.items()), dtype)
            for layer in range(dims["L"] if param.stacked else 1):
                raw = _read(tensors, param.hf.format(layer), _raw_sharding(param))
                turned = turn(raw)
                array = turned if array is None else _put(array, turned, layer)
                array.block_until_ready()  # else tensors pile up behind a busy device
                if progress:
                    progress(raw.nbytes)
        assert array is not None
        return array

    with ThreadPoolExecutor(AT_ONCE if jax.process_count() == 1 else 1) as pool:
        return tree_of(dict(zip(table, pool.map(fill, table), strict=True)))


def _read(tensors: Tensors, name: str, sharding: jax.NamedSharding) -> jax.Array:
    """A tensor on the mesh; of its rows only those are read that lie on this host's devices, or between them."""
    shape = tensors.shape(name)
    places = [index[0] for index in sharding.addressable_devices_indices_map(shape).values() if index]
    ranges = [place.indices(shape[0]) for place in places]
    first, last = min(start for start, _, _ in ranges), max(stop for _, stop, _ in ranges)
    raw = tensors.read(name, slice(first, last))

    def piece(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        return raw[(slice(start - first, stop - first), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, piece)


def _raw_sharding(param: Param) -> jax.NamedSharding:
    """Of a tensor in Hugging Face's layout, such that turning it moves nothing between devices."""
    mesh = jax.sharding.get_mesh()
    spec = param_spec(param.letters)
    axis = dict(zip(param.letters, (*spec, *[None] * len(param.letters)), strict=False))
    if ">" not in param.dims:
        return jax.NamedSharding(mesh, jax.P(*(axis[letter] for letter in param.letters.removeprefix("L"))))
    return jax.NamedSharding(mesh, jax.P(*(axis[group[0]] for group in (param.outs, param.ins) if group)))


# Turning a tensor and moving it to or from the stack are programs of their own: as one, XLA's CPU backend copies
# element by element, several times slower.


@functools.cache
def _turner(param: Param, dims: tuple[tuple[str, int], ...], dtype: str) -> Callable[[jax.Array], jax.Array]:
    """A tensor in Hugging Face's layout → one layer in ours."""
    shape, spec = param.shape(dict(dims)), param_spec(param.letters)
    shape, spec = (shape[1:], jax.P(*spec[1:])) if param.stacked else (shape, spec)

    def turn(raw: jax.Array) -> jax.Array:
        turned = raw.T if param.ins else raw
        return jnp.reshape(turned, shape, out_sharding=spec).astype(dtype)

    return jax.jit(turn)


@functools.partial(jax.jit, donate_argnums=0)
def _put(array: jax.Array, turned: jax.Array, layer: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(array, turned, layer, 0)


def specs(
    params: Tree,
    table: Table,
    dims: Dims,
    dtype: str | None = None,
    adapter: Tree | None = None,
    lora: LoraConfig | None = None,
) -> list[Spec]:
    """What to write, each tensor made when it is asked for; with `adapter`, merged in float32 on the way.

    `dtype` None keeps the arrays'. Every host must ask for the tensors in the same order; each gets them whole.
    """
    result = []
    for path, layer, name in names_of(table, dims):
        array, param = leaf_at(params, path), table[path]
        target = path.removeprefix("layers.")
        factors = adapter.get(target) if adapter else None
        kind = np.dtype(jnp.dtype(dtype or array.dtype))
        scale = lora.scale if lora and factors else 0.0
        take = _taker(param, kind, target if factors else "", scale)
        back = _returner(param, tuple(dims.items()))
        read = functools.partial(_whole, take, back, array, factors or {}, layer)
        result.append(Spec(name, param.hf_shape(dims), kind, read))
    return result


def _whole(
    take: Callable[..., jax.Array], back: Callable[..., jax.Array], array: jax.Array, factors: Tree, layer: int
) -> np.ndarray:
    return np.asarray(back(take(array, factors, layer)).addressable_data(0))


@functools.cache
def _taker(param: Param, dtype: np.dtype, target: str, scale: float) -> Callable[..., jax.Array]:
    """(array, factors, layer) → one layer in our layout, whole on every device."""

    def take(array: jax.Array, factors: Tree, layer: jax.Array) -> jax.Array:
        def pick(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_index_in_dim(x, layer, 0, keepdims=False)

        ours = pick(array) if param.stacked else array
        if target:
            ours = added(target, ours, pick(factors["a"]), pick(factors["b"]), scale)
        return jax.sharding.reshard(ours.astype(dtype), jax.P(*[None] * ours.ndim))

    return jax.jit(take)


@functools.cache
def _returner(param: Param, dims: tuple[tuple[str, int], ...]) -> Callable[[jax.Array], jax.Array]:
    """One layer in our layout → a tensor in Hugging Face's."""

    def back(ours: jax.Array) -> jax.Array:
        if ">" not in param.dims:
            return ours
        return jnp.reshape(ours, (param.fan_in(dict(dims)), -1)).T if param.ins else jnp.reshape(ours, -1)

    return jax.jit(back)
