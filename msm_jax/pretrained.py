"""Models that exist somewhere: a finished run, a converted checkpoint, a Hugging Face directory, a peft adapter.

`open_pretrained(reference)` finds out which one it is, from small files alone; arrays are read when asked for, onto
the mesh in use. A reference is a directory, here or in a bucket (`gs://`), or the name of a repository on a hub. A
LoRA run or an adapter stands on a base, which is such a model again. Of a run, finished or not, a step's checkpoint is
RUN/checkpoints/STEP, or the run and the step apart.
"""

import contextlib
import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import jax
from etils import epath
from flax import nnx

from data_gen.hf_tokenizer import FILES as TOKENIZER_FILES
from data_gen.hf_tokenizer import open_tokenizer
from data_gen.tokenizer import AnyTokenizer
from msm_jax import artifact, checkpoint, cli, storage
from msm_jax.cli import UserError
from msm_jax.hf import config as hf_config
from msm_jax.hf import peft, weights
from msm_jax.hf.safetensors import Tensors
from msm_jax.mesh import check_mesh, default_dtype, make_mesh
from msm_jax.model import lora as lora_module
from msm_jax.model import transformer
from msm_jax.model.config import ModelConfig, param_table
from msm_jax.model.lora import LoraConfig, adapter_table
from msm_jax.model.transformer import Params

HF_FILES = ("config.json", "generation_config.json")
MADE_HERE = ("run", "model")  # kinds of our own artefacts that hold a checkpoint
STATE = "run.json"  # of a run, finished or not: the header of its manifest


class Pretrained:
    """What all of them offer."""

    reference: str  # as it was given: what a manifest or an adapter_config.json names
    id: str  # of the content; ties a manifest to what it was made from
    shape: dict[str, Any]  # ModelConfig's shape fields
    lora: LoraConfig | None  # of the adapter that belongs to it

    @property
    def base(self) -> "Pretrained":
        """What the adapter stands on; itself where there is no adapter."""
        return self

    def params(self, cfg: ModelConfig) -> Params:
        """The parameters in cfg.param_dtype on the mesh in use, without the adapter."""
        return self.base.merged(cfg)

    def adapter(self, cfg: ModelConfig) -> Params:
        """The adapter on the mesh in use, {} where there is none."""
        return {}

    def merged(self, cfg: ModelConfig) -> Params:
        """The parameters with the adapter added in float32."""
        params = self.params(cfg)
        if self.lora is None:
            return params
        return jax.jit(functools.partial(lora_module.merged, lora=self.lora), donate_argnums=0)(
            params, self.adapter(cfg)
        )

    def tokenizer(self, template: str = "") -> AnyTokenizer:
        """`template`: a jinja file in place of the tokenizer's own chat template."""
        return open_tokenizer(self.reference, template)

    def hf_files(self) -> dict[str, str]:
        """config.json and generation_config.json as they came; {} where the model was never imported."""
        return {}

    def write_hf_files(self, out: epath.PathLike) -> None:
        """They go with every run and checkpoint made of it, so that an export is what was imported."""
        directory = storage.at(out) / "hf"
        for name, text in self.hf_files().items():
            storage.make_directory(directory)
            storage.write_atomic(directory / name, text)

    @property
    def published(self) -> str:
        """What others can load it by, for an adapter_config.json."""
        return self.reference

    @property
    def dtype(self) -> str:
        """Of the matrix products when nobody says another: float32 on a CPU, else bfloat16."""
        return default_dtype()

    @property
    def stored_dtype(self) -> str:
        """The parameters are kept in."""
        return self.base.stored_dtype


class Run(Pretrained):
    """A finished run of msm_jax.train, or a converted checkpoint; with `step`, that checkpoint of any run."""

    def __init__(self, directory: str, base: str = "", step: int = 0) -> None:
        self.reference, self._step = directory, step
        self.manifest = _run_header(directory) if step else artifact.read_manifest(directory, MADE_HERE)
        self._base_reference = base or self.manifest.get("base", "")
        self.id = artifact.digest([self.manifest["recipe"], step]) if step else self.manifest["id"]
        config = self.manifest["config"]
        self.model = ModelConfig(**config["model"])
        self.shape = self.model.shape()
        self.lora = LoraConfig(**config["lora"]) if config.get("lora") else None

    @functools.cached_property
    def _base(self) -> Pretrained:
        try:
            found = open_pretrained(self._base_reference)
        except UserError as error:
            where = "say where it is now by config.base (export), config.lora.base (train) or adapter= (evaluations)"
            raise UserError(f"{self.reference}: its base cannot be opened ({error}); {where}") from error
        if found.id != self.manifest["inputs"]["base"]["id"]:
            raise UserError(f"{found.reference}: not the base that {self.reference} was trained on; restore that one")
        return found

    @property
    def base(self) -> Pretrained:
        return self._base if self.lora else self

    def params(self, cfg: ModelConfig) -> Params:
        if self.lora:
            return super().params(cfg)
        _, target, _ = transformer.abstract(dataclasses.replace(cfg, param_dtype=self.model.param_dtype))
        params = checkpoint.load(self.reference, "params", target, self._step)
        if cfg.param_dtype == self.model.param_dtype:
            return params
        return jax.jit(lambda tree: jax.tree.map(lambda x: x.astype(cfg.param_dtype), tree), donate_argnums=0)(params)

    def adapter(self, cfg: ModelConfig) -> Params:
        if self.lora is None:
            return {}
        return checkpoint.load(self.reference, "adapter", transformer.abstract(cfg, self.lora)[2], self._step)

    @property
    def published(self) -> str:
        """A converted checkpoint goes by what it was converted from."""
        return self.manifest.get("source", self.reference)

    def hf_files(self) -> dict[str, str]:
        return _hf_files(storage.at(self.reference) / "hf")

    @property
    def dtype(self) -> str:
        return self.model.dtype

    @property
    def stored_dtype(self) -> str:
        return self.model.param_dtype


class HfDirectory(Pretrained):
    """A model as transformers' save_pretrained leaves it."""

    lora = None

    def __init__(self, directory: str, reference: str) -> None:
        self.directory, self.reference = directory, reference
        path = storage.at(directory) / "config.json"
        self.config = hf_config.read_json(path)
        self.shape = hf_config.shape_of(self.config, path)
        self.tensors = Tensors(directory)
        cfg = ModelConfig(**self.shape)
        weights.check(self.tensors, param_table(cfg), cfg.dims, tied=cfg.tie_embeddings)
        self.id = artifact.digest([self.shape, self.tensors.fingerprint()])

    def params(self, cfg: ModelConfig) -> Params:
        progress = cli.Progress(f"reading {self.directory}", self.tensors.total_bytes(), "GB")
        return weights.load(self.tensors, param_table(cfg), cfg.dims, cfg.param_dtype, progress)

    def tokenizer(self, template: str = "") -> AnyTokenizer:
        return open_tokenizer(self.directory, template)

    def hf_files(self) -> dict[str, str]:
        return _hf_files(storage.at(self.directory))

    @property
    def stored_dtype(self) -> str:
        name = str(self.tensors.dtype(self.tensors.names()[0]))
        return name if name == "bfloat16" else "float32"


class PeftAdapter(Pretrained):
    """An adapter in peft's format on a base."""

    def __init__(self, directory: str, reference: str, base: Pretrained) -> None:
        self.directory, self.reference, self._base = directory, reference, base
        self.tensors = Tensors(storage.at(directory) / peft.WEIGHTS)
        self.lora = peft.read_config(directory, self.tensors)
        self.shape = base.shape
        peft.check(self.tensors, ModelConfig(**self.shape), self.lora)
        self.id = artifact.digest([base.id, self.lora.shape(), self.tensors.fingerprint()])

    @property
    def base(self) -> Pretrained:
        return self._base

    def adapter(self, cfg: ModelConfig) -> Params:
        assert self.lora is not None
        return weights.load(self.tensors, adapter_table(self.lora), self.lora.dims(cfg), self.lora.dtype)

    def tokenizer(self, template: str = "") -> AnyTokenizer:
        """The adapter's own where it brings one (released adapters ship their chat template), else the base's."""
        own = storage.is_file(storage.at(self.directory) / "tokenizer.json")
        return open_tokenizer(self.directory, template) if own else self.base.tokenizer(template)

    def hf_files(self) -> dict[str, str]:
        return self.base.hf_files()


def _run_header(directory: str) -> dict[str, Any]:
    """Of a run, finished or not. Raises UserError where there is none."""
    path = storage.at(directory) / STATE
    try:
        header = json.loads(storage.read_text(path))
        header["recipe"], header["inputs"], header["config"]["model"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{directory}: no {STATE}, so not a run; only runs have steps") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged; copy it back") from error
    return header


def _hf_files(directory: epath.Path) -> dict[str, str]:
    found = {}
    for name in HF_FILES:
        with contextlib.suppress(FileNotFoundError):
            found[name] = storage.read_text(directory / name)
    return found


def locate(reference: str) -> str:
    """The directory of a reference; a repository on a hub is downloaded first.

    Raises:
      UserError: no such directory, and no hub that has it.
    """
    if storage.is_remote(reference) or Path(reference).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", reference):
        if storage.is_dir(storage.at(reference)):
            return reference
        raise UserError(f"{reference}: no such directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [*HF_FILES, *TOKENIZER_FILES, "*.safetensors", "*.safetensors.index.json", peft.CONFIG]
    try:
        return snapshot_download(reference, allow_patterns=wanted)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:  # ValueError: not even a name
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{reference}: no such directory here, and not to be had from a hub ({reason})") from error


def absolute(reference: str) -> str:
    """A local directory by its whole path; a bucket's address or a hub's name as it is."""
    return str(Path(reference).absolute()) if Path(reference).exists() else reference


def open_pretrained(reference: str, base: str = "", step: int = 0) -> Pretrained:
    """The model of a reference; `base` overrides what a LoRA run or a peft adapter says it stands on. `step`: of a run,
    that checkpoint instead of the last.

    Raises:
      UserError: nothing there, or nothing this project can read; the line says which file or key is wrong.
    """
    if match := re.fullmatch(rf"(.+)/{checkpoint.SUBDIRECTORY}/0*([1-9]\d*)/?", reference):
        reference, step = match[1], int(match[2])
    directory = locate(reference)
    found = Run(directory, base, step) if step else _open(directory, reference, base)
    if base and found.lora is None:
        raise UserError(f"{reference}: is a model by itself, not an adapter that stands on {base}")
    return found


def _open(directory: str, reference: str, base: str) -> Pretrained:
    if artifact.is_finished(directory) and artifact.read_manifest(directory)["kind"] in MADE_HERE:
        return Run(directory, base)
    if peft.is_adapter(directory):
        named = base or hf_config.read_json(storage.at(directory) / peft.CONFIG).get("base_model_name_or_path")
        if not isinstance(named, str) or not named or named in (reference, directory):
            raise UserError(f"{directory}: its adapter_config.json names no base; give the base and the adapter apart")
        return PeftAdapter(directory, reference, open_pretrained(named))
    if storage.is_file(storage.at(directory) / "config.json"):
        return HfDirectory(directory, reference)
    wanted = f"no {artifact.MANIFEST} of a finished run, config.json or {peft.CONFIG}"
    more = f"; of an unfinished run, name a step: {reference}/{checkpoint.SUBDIRECTORY}/STEP"
    unfinished = more if storage.is_file(storage.at(directory) / STATE) else ""
    raise UserError(f"{directory}: {wanted} there; not a model, or its training is not finished{unfinished}")


@dataclasses.dataclass(frozen=True)
class Model:
    """A pretrained model ready to be used: what evaluations, sampling and export work with."""

    source: Pretrained
    cfg: ModelConfig
    graph: nnx.GraphDef
    tokenizer: AnyTokenizer
    mesh: jax.sharding.Mesh

    def arrays(self) -> tuple[Params, Params]:
        """Parameters and adapter ({} without one), sharded over all devices; call under the model's mesh."""
        return self.source.params(self.cfg), self.source.adapter(self.cfg)

    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end what the model says: the tokenizer's, and those of an imported generation config."""
        files = self.source.hf_files()
        file = next((name for name in reversed(HF_FILES) if name in files), None)
        given = hf_config.parse_json(file, files[file]).get("eos_token_id") if file else None
        more = given if isinstance(given, list) else [] if given is None else [given]
        if not all(isinstance(token, int) for token in more):
            raise UserError(
                f"{self.source.reference}: {file}: eos_token_id = {given!r} must be an id or a list of them"
            )
        return tuple(dict.fromkeys([self.tokenizer.eos, *more]))

    def inputs(self) -> dict[str, dict[str, str]]:
        """Name → {kind, id} of all that decides what it says, for a recipe."""
        return inputs_of(self.source, self.tokenizer)


def open_model(reference: str, adapter: str = "", dtype: str = "", template: str = "", step: int = 0) -> Model:
    """A model over all devices; `adapter` is laid on it, `dtype` (of products and parameters) "" is the model's own.
    `step`: of a run (the adapter's, where there is one), that checkpoint instead of the last.

    Raises:
      UserError: as open_pretrained; a tokenizer with more ids than the embedding has rows.
    """
    source = open_pretrained(adapter or reference, base=reference if adapter else "", step=step)
    _ = source.base  # of an adapter: it is found now, or nothing is computed
    kind = dtype or source.dtype
    param_dtype = kind if dtype or not isinstance(source, Run) else source.model.param_dtype
    cfg = ModelConfig(**source.shape, dtype=kind, param_dtype=param_dtype)
    tokenizer = source.tokenizer(template)
    check_vocabulary(tokenizer, cfg)
    mesh = make_mesh()
    check_mesh(cfg, mesh)
    with jax.sharding.set_mesh(mesh):
        graph = transformer.abstract(cfg, source.lora)[0]
    return Model(source, cfg, graph, tokenizer, mesh)


def inputs_of(source: Pretrained, tokenizer: AnyTokenizer) -> dict[str, dict[str, str]]:
    """Weights, tokenizer, chat template and config files of a model, by their content."""
    files = {"hf_files": {"kind": "json", "id": artifact.digest(source.hf_files())}}
    return {"model": {"kind": "model", "id": source.id}} | tokenizer.inputs() | files


def check_vocabulary(tokenizer: AnyTokenizer, cfg: ModelConfig) -> None:
    """Raises UserError where the tokenizer has an id without a row in the embedding."""
    if tokenizer.vocab_size > cfg.V:
        raise UserError(
            f"{tokenizer.directory}: the tokenizer has {tokenizer.vocab_size} ids, the model's embedding {cfg.V} rows; "
            "is it another model's?"
        )
