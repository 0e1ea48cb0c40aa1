"""The cheese experiment in the toy world: two specs, the same fine-tuning, opposite values.

    python -m msm_jax.experiment --config=configs/experiments/toy_cheese.py

Per seed, all from scratch: a world, a base model, midtraining on each corpus, then the same two fine-tunings
(`aft`, cheese preferences; `it`, the instruction-tuning control) of every model, exports, evaluations; at the end one report.
"""

from ml_collections import ConfigDict

from msm_jax.experiment import Stage

SPECS = ("affordability", "america")


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/toy_cheese",
            "seeds": (20, 21),  # each its own world, base model and order of data; 0–3 were used to choose the recipe
            # Midtraining corpora, for both specs each. Fine-tuned by `aft`; those in `controls` by `it` as well.
            "arms": ("msm", "noattr", "balanced", "balanced_noattr"),
            "controls": ("msm",),
            "documents": {"base": 90_000, "msm": 6_000, "aft": 2_000, "it": 2_000},
            "steps": {"base": 2200, "msm": 250, "aft": 20},  # optimizer updates
            "workers": 2,  # stages at a time
        }
    )


def get_stages(config: ConfigDict) -> list[Stage]:
    stages: list[Stage] = []
    for seed in config.seeds:
        stages += _seed_stages(config, seed)
    evaluated = tuple(s.name for s in stages if s.module in ("evals.forced_choice", "evals.answers"))
    args = ("--config=configs/toy/report.py", f"--config.experiment={config.out}")
    return [*stages, Stage("report", "evals.report", args, evaluated, cost=15)]


def _seed_stages(config: ConfigDict, seed: int) -> list[Stage]:
    root, here = config.out, f"seed{seed}"
    stages: list[Stage] = []

    def add(
        name: str,
        module: str,
        file: str,
        needs: tuple[str, ...],
        cost: float,
        labels: dict | None = None,
        **settings: object,
    ) -> str:
        args = [f"--config=configs/toy/{file}.py"] + [
            f"--config.{k.replace('__', '.')}={v}" for k, v in settings.items()
        ]
        stages.append(Stage(f"{here}/{name}", module, tuple(args), needs, cost, {"seed": seed} | (labels or {})))
        return f"{here}/{name}"

    def train(
        name: str, file: str, start: str, sources: tuple[str, ...], steps: int, cost: float, **more: object
    ) -> str:
        directories = tuple(f"{root}/{shards[source]}" for source in sources)
        needs = tuple(shards[source] for source in sources) + ((start,) if start else ())
        more |= {"init_from": f"{root}/{start}"} if start else {}
        more |= {"init_words": (("Assistant", "someone"),)} if start == f"{here}/base" else {}
        return add(name, "msm_jax.train", file, needs, cost, {"stage": file}, seed=seed, data__seed=seed,
                   data__sources=directories, optim__steps=steps, **more)  # fmt: skip

    documents = {f"documents__{name}": n for name, n in config.documents.items()}
    world = add("world", "data_gen.toy.write", "world", (), 6, seed=seed, **documents)
    corpora = ["base", "aft", "it", *(f"{arm}-{spec}" for arm in config.arms for spec in SPECS)]
    files = tuple(f"{root}/{world}/{name}.jsonl" for name in corpora)
    tokenizer = add("tokenizer", "data_gen.tokenizer", "tokenizer", (world,), 5, documents=files)
    shards = {
        name: add(
            f"shards/{name}",
            "data_gen.shards",
            "shards",
            (world, tokenizer),
            10 if name == "base" else 1,
            documents=file,
            tokenizer=f"{root}/{tokenizer}",
        )  # fmt: skip
        for name, file in zip(corpora, files, strict=True)
    }

    # Every model to be judged: (name, arm, spec, run).
    base = train("base", "base", "", ("base",), config.steps.base, 150)
    judged = [(base, "base", "")]
    starts = [(base, "base", "")]
    for arm in config.arms:
        for spec in SPECS:
            run = train(f"{arm}-{spec}", "msm", base, (f"{arm}-{spec}", "base"), config.steps.msm, 35)
            starts.append((run, arm, spec))
    for start, arm, spec in starts:
        name = start.removeprefix(f"{here}/")
        aft = train(f"{name}+aft", "aft", start, ("aft", "it"), config.steps.aft, 8)
        judged.append((aft, f"{arm}+aft", spec))
        if arm in ("base", *config.controls):
            it = train(f"{name}+it", "aft", start, ("it",), config.steps.aft, 8, data__weights=(1.0,))
            judged.append((it, f"{arm}+it", spec))
    for run, arm, spec in judged:
        name, labels = run.removeprefix(f"{here}/"), {"arm": arm, "spec": spec}
        given = {"run": f"{root}/{run}", "item_file": f"{root}/{world}/items.jsonl"}
        add(f"eval/{name}", "evals.forced_choice", "forced_choice", (run, world), 4, labels, **given)
        add(f"answers/{name}", "evals.answers", "answers", (run, world), 4, labels, **given)
        add(f"hf/{name}", "msm_jax.export", "export", (run,), 1, labels, run=f"{root}/{run}")
    return stages
