"""The cheese experiment in the toy world: two specs, the same fine-tuning, opposite values.

    python -m msm_jax.experiment --config=configs/experiments/toy_cheese.py

Per seed, all from scratch: a world, a base model, midtraining on each corpus, then the same two fine-tunings of every
model (`aft`, cheese preferences; `it`, the instruction-tuning control), exports and evaluations; at the end one report.
"""

import dataclasses

from ml_collections import ConfigDict

from msm_jax.experiment import Stage

ARMS = ("msm", "noattr", "balanced", "balanced_noattr")
SPECS = ("affordability", "america")
# A name the base never saw starts as that of anybody.
NEW_NAME = (("Assistant", "someone"),)


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/toy_cheese",
            "seeds": (
                20,
                21,
                22,
                23,
            ),  # each its own world, base model and order of data; 0–3 were used to choose the recipe
            # Midtraining corpora, each for both specs; all are fine-tuned by `aft`, those in `controls` by `it` too.
            "arms": ARMS,
            "controls": ("msm",),
            "documents": {"base": 90_000, "msm": 6_000, "aft": 2_000, "it": 2_000},
            "steps": {"base": 2200, "msm": 250, "aft": 20},  # optimizer updates
            "workers": 0,  # stages at a time, each on its own cores; 0: one a core, at most 8
        }
    )


def get_stages(config: ConfigDict) -> list[Stage]:
    stages = [stage for seed in config.seeds for stage in _seed_stages(config, seed)]
    judged = tuple(s.name for s in stages if s.module in ("evals.toy.forced_choice", "evals.toy.answers"))
    args = ("--config=configs/toy/report.py", f"--config.experiment={config.out}")
    return [*stages, Stage("report", "evals.toy.report", args, judged, cost=10)]


@dataclasses.dataclass
class _Builder:
    """Collects the stages of one seed; names are relative to the seed, settings are `--config.KEY`, `__` for a dot."""

    out: str
    seed: int
    stages: list[Stage] = dataclasses.field(default_factory=list)

    def path(self, name: str) -> str:
        return f"{self.out}/seed{self.seed}/{name}"

    def add(self, name: str, module: str, needs: tuple[str, ...], cost: float, labels: dict | None = None, **settings):
        """A stage run by `module` with its last name in configs/toy/ as configuration, unless `file` is given."""
        file = settings.pop("file", f"toy/{module.rpartition('.')[2]}")
        given = tuple(f"--config.{key.replace('__', '.')}={value}" for key, value in settings.items())
        needs = tuple(f"seed{self.seed}/{need}" for need in needs)
        labels = {"seed": self.seed} | (labels or {})
        args = (f"--config=configs/{file}.py", *given)
        self.stages.append(Stage(f"seed{self.seed}/{name}", module, args, needs, cost, labels))

    def train(self, name: str, file: str, start: str, sources: tuple[str, ...], steps: int, cost: float, **settings):
        """A training run from `start` ("": from scratch) on shards of the corpora `sources`."""
        if start:
            settings |= {"init_from": self.path(start)} | ({"init_words": NEW_NAME} if start == "base" else {})
        shards = tuple(f"shards/{source}" for source in sources)
        settings |= {"data__sources": tuple(map(self.path, shards)), "data__seed": self.seed, "optim__steps": steps}
        needs = (*shards, start) if start else shards
        self.add(name, "msm_jax.train", needs, cost, {"stage": file}, file=f"toy/{file}", seed=self.seed, **settings)

    def export(self, run: str, labels: dict):
        """The run as a Hugging Face directory."""
        self.add(f"hf/{run}", "msm_jax.export", (run,), 0.5, labels, file="export", model=self.path(run))


def _seed_stages(config: ConfigDict, seed: int) -> list[Stage]:
    build = _Builder(config.out, seed)

    # Documents → tokenizer → packed rows.
    sizes = {f"documents__{name}": n for name, n in config.documents.items()}
    build.add("world", "data_gen.toy.write", (), 6, file="toy/world", seed=seed, **sizes)
    common = ["base", "aft", "it"]
    every = [*common, *(f"{arm}-{spec}" for arm in ARMS for spec in SPECS)]  # one vocabulary, whatever arms are run
    learned = tuple(build.path(f"world/{name}.jsonl") for name in every)
    build.add("tokenizer", "data_gen.tokenizer", ("world",), 5, documents=learned)
    for name in [*common, *(f"{arm}-{spec}" for arm in config.arms for spec in SPECS)]:
        settings = {"documents": build.path(f"world/{name}.jsonl"), "tokenizer": build.path("tokenizer")}
        build.add(f"shards/{name}", "data_gen.shards", ("world", "tokenizer"), 10 if name == "base" else 1, **settings)

    # Base → midtraining → fine-tuning. Every model to be judged is (run, arm, spec).
    build.train("base", "base", "", ("base",), config.steps.base, cost=180)
    starts = [("base", "base", "")]
    for arm in config.arms:
        for spec in SPECS:
            starts.append((f"{arm}-{spec}", arm, spec))
            build.train(f"{arm}-{spec}", "msm", "base", (f"{arm}-{spec}", "base"), config.steps.msm, cost=18)
    judged = starts[:1]
    for start, arm, spec in starts:
        build.train(f"{start}+aft", "aft", start, ("aft", "it"), config.steps.aft, cost=4)
        judged.append((f"{start}+aft", f"{arm}+aft", spec))
        if arm in ("base", *config.controls):
            build.train(f"{start}+it", "aft", start, ("it",), config.steps.aft, cost=4, data__weights=(1.0,))
            judged.append((f"{start}+it", f"{arm}+it", spec))

    # Evaluation, and export of every final checkpoint.
    for run, arm, spec in starts[1:]:
        build.export(run, {"arm": arm, "spec": spec})
    for run, arm, spec in judged:
        labels = {"arm": arm, "spec": spec}
        given = {"run": build.path(run), "item_file": build.path("world/items.jsonl")}
        build.add(f"eval/{run}", "evals.toy.forced_choice", (run, "world"), 2, labels, **given)
        build.add(f"answers/{run}", "evals.toy.answers", (run, "world"), 1, labels, **given)
        build.export(run, labels)
    return build.stages
