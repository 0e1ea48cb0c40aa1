"""Opening a finished run: its model, tokenizer and parameters."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from data_gen.tokenizer import Tokenizer
from msm_jax import artifact
from msm_jax.checkpoint import load_params
from msm_jax.mesh import make_mesh
from msm_jax.model import transformer
from msm_jax.model.config import ModelConfig
from msm_jax.model.transformer import Params


@dataclasses.dataclass(frozen=True)
class Run:
    directory: Path
    manifest: dict[str, Any]
    model: ModelConfig
    graph: nnx.GraphDef
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh

    def params(self) -> Params:
        """The final parameters, float32, sharded over all devices; call under the run's mesh."""
        return load_params(self.directory, abstract_params(self.model))


def abstract_params(model: ModelConfig) -> Params:
    """Shapes, dtypes and shardings of a model's parameters on the mesh in use."""
    shape, shardings = transformer.abstract(model)[1], transformer.shardings(model)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shape, shardings)


def load_run(directory: str | Path) -> Run:
    """Raises UserError where the directory is not a finished run."""
    manifest = artifact.read_manifest(directory, "run")
    model = ModelConfig(**manifest["config"]["model"])
    mesh = make_mesh()
    with jax.sharding.set_mesh(mesh):
        graph, _ = transformer.abstract(model)
    return Run(Path(directory), manifest, model, graph, Tokenizer(directory), mesh)
