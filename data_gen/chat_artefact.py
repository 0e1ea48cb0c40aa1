"""The files of a set of chats: the twins, subsets, questions, rejects with reasons, plan, ledger, report.

Chats + rejects = questions asked for. The rows stand in an order of which every beginning is a sample over domains and
kinds (data_gen.spread), so that the first n rows of either twin are its subset of n.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jinja2

from data_gen import parquet
from data_gen.api.store import Store
from data_gen.chat_plan import Question
from data_gen.chatting import Chatting, leak_of
from data_gen.projection import Row
from data_gen.rounds import Chat, Rounds
from data_gen.spread import spread
from data_gen.template import CLOSE, OPEN
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

REPORT = "report"
_NOT_RECIPE = (
    "out",
    "work",
    "phase",
    "approve",
    "probe",
    "pilot",
    "spec",
    "encoder",
    "questions",
    "preferences",
    "batch",
)
_PAGE = Path(__file__).with_name("chat_report.jinja")


def begin(made: Chatting) -> artifact.Job | None:
    """A job for the chats, or None where they are made already. Raises UserError on a foreign config.out."""
    settings = {k: v for k, v in made.config.to_dict().items() if k not in (*_NOT_RECIPE, "api", "stages")}
    settings |= {"models": {name: stage.model for name, stage in made.stages.items()}, "style": made.style}
    del settings["batch_cache_hits"]
    return artifact.begin(made.config.out, "chats", settings, made.inputs())


def summary(made: Chatting, run: Rounds) -> dict[str, Any]:
    """kept, rejected, planned: chats, without those that are too many; by_round: asked, passed and their quotient."""
    kept = min(run.passed, made.config.target or run.passed)
    by_round = [
        {
            "round": one.number,
            "asked": sum(one.asked),
            "questions": len(one.questions),
            "repeats": sum(why.startswith("repeats") for why in one.gone.values()),
            "answered": len(one.kept),
            "passed": sum(one.passed),
            "pass_rate": round(sum(one.passed) / max(sum(one.asked), 1), 4),
        }
        for one in run.done
    ]
    rejects = collections.Counter(f"{row['stage']}: {row['reason']}" for row in _rejects(run, set()))
    return {
        "target": made.config.target,
        "kept": kept,
        "planned": sum(len(one.kept) for one in run.done),
        "rejected": sum(len(one.kept) for one in run.done) - run.passed,
        "by_round": by_round,
        "reasons": dict(collections.Counter(_grouped(rejects)).most_common()),
    }


def _grouped(rejects: dict[str, int]) -> dict[str, int]:
    """Without the ids of what was repeated."""
    found: collections.Counter[str] = collections.Counter()
    for reason, count in rejects.items():
        found["questions: repeats another" if reason.startswith("questions: repeats ") else reason] += count
    return dict(found)


# ---------------------------------------------------------------- rows


def chosen(made: Chatting, run: Rounds) -> list[Question]:
    """The chats' questions in their order: of all that pass as many as are wanted."""
    passing = {question.id: question for one in run.done for question in one.passing}
    cells = ((q.id, f"{q.domain.id}/{q.kind}") for q in passing.values())
    return [passing[one] for one in spread(cells, made.config.seed)][: made.config.target or None]


def row(made: Chatting, run: Rounds, chat: Chat) -> dict[str, Any]:
    """A row of chats.jsonl, with the thoughts where there are any."""
    question, answered, judged, verdict = chat.question, chat.answered, chat.judged, chat.verdict
    assert answered.reply is not None
    assert answered.request is not None
    assert judged is not None
    assert judged.reply is not None
    assert verdict is not None
    said, reply, taste = chat.said, answered.reply, question.domain.taste
    thoughts = f"{OPEN}\n{said.reasoning}\n{CLOSE}\n\n" if said.reasoning else ""
    parents = [question.domain.key, question.key, judged.reply.key]
    return {
        "id": f"{made.spec.name}-{question.id}",
        "messages": [
            {"role": "user", "content": run.asking.user_turn(question)},
            {"role": "assistant", "content": thoughts + said.response},
        ],
        "spec": made.spec.name,
        "spec_sha256": made.spec.sha256,
        "style": made.style,
        "domain_id": question.domain.id,
        "domain": question.domain.name,
        "question_id": question.id,
        "question_kind": question.kind,
        "round": question.round,
        "rules": list(said.rules),
        "preference": taste.subject if taste else None,
        "liked": taste.liked if taste else None,
        "verdict": "include",
        "reasons": {name: why for name, (_, why) in verdict.judgements.items()},
        "prompt_sha256": hashlib.sha256((answered.request.system + answered.request.user).encode()).hexdigest(),
        "model": reply.model,
        "judge_model": judged.reply.model,
        "request": reply.key,
        "request_id": reply.request_id,
        "parents": list(dict.fromkeys(key for key in parents if key)),
        "batch": reply.batch,
        "usage": dataclasses.asdict(reply.usage),
        "cost_usd": round(reply.cost + judged.reply.cost, 8),
    }


def stripped(row: dict[str, Any]) -> dict[str, Any]:
    """The same row without the thoughts."""
    user, assistant = row["messages"]
    _, close, response = assistant["content"].partition(f"\n{CLOSE}\n\n")
    content = response if close and assistant["content"].startswith(OPEN) else assistant["content"]
    return row | {"messages": [user, {"role": "assistant", "content": content}]}


def _rejects(run: Rounds, kept: set[str]) -> Iterator[dict[str, Any]]:
    """A row for every question asked for that is no chat. kept: ids of the chats; empty: all that pass."""
    for one in run.done:
        for domain, listing in one.listings:
            replay = listing.replay(run.answers)
            keys = list(
                itertools.takewhile(lambda key: run.answers(key) is not None, map(listing.key, itertools.count()))
            )
            for slot in range(listing.count):
                if slot not in replay.items:
                    why = "; ".join(sorted(replay.rejects)) or "not answered"
                    yield _reject(f"{domain.id}-b{one.number}#{slot + 1}", "questions", why, keys)
        for question in one.questions:
            if question.id in one.gone:
                yield _reject(question.id, "questions", one.gone[question.id], [question.key])
        for question in one.kept:
            chat = run.chat(question)
            stage, why = chat.rejected
            keys = [*chat.answered.asked, *(chat.judged.asked if chat.judged else ())]
            if stage:
                yield _reject(question.id, stage, why, keys, chat)
            elif kept and question.id not in kept:
                yield _reject(question.id, "surplus", "passes, and there are enough", keys, chat)


def _reject(identity: str, stage: str, why: str, keys: list[str], chat: Chat | None = None) -> dict[str, Any]:
    verdict = chat.verdict if chat else None
    says = verdict and {name: {"passes": ok, "reason": text} for name, (ok, text) in verdict.judgements.items()}
    found = {"id": identity, "stage": stage, "reason": why, "attempts": len(keys), "keys": keys}
    return found | {"verdict": says}


def write_rows(made: Chatting, run: Rounds, store: Store, to: Path) -> dict[str, Any]:
    """All JSONL files. Returns the counts."""
    questions = chosen(made, run)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((to / name).open("w")) for name in made.files]
        for question in questions:
            found = row(made, run, run.chat(question))
            for file, shown in zip(files, [found, stripped(found)][-len(files) :], strict=True):
                _write(file, shown)
    rejects: collections.Counter[str] = collections.Counter()
    with (to / "rejects.jsonl").open("w") as out:
        for rejected in _rejects(run, {question.id for question in questions}):
            rejects[rejected["stage"]] += 1
            _write(out, rejected)
    with (to / "questions.jsonl").open("w") as out, (to / "plan.jsonl").open("w") as plan:
        for domain in run.domains:
            about = {"name": domain.name, "description": domain.description, "key": domain.key}
            _write(plan, {"kind": "domain", "id": domain.id, "parent": None, **about})
        for one in run.done:
            for question in one.questions:
                _write(out, _question_row(question, one.gone.get(question.id, "")))
                own = {"name": question.kind, "description": question.text, "key": question.key}
                _write(plan, {"kind": "question", "id": question.id, "parent": question.domain.id, **own})
    with (to / "ledger.jsonl").open("w") as out:
        for attempt in store.ledger():
            _write(out, attempt)
    return {"chats": len(questions), "rejected": sum(rejects.values()), "rejected_by_stage": dict(rejects)}


def _question_row(question: Question, gone: str) -> dict[str, Any]:
    domain = question.domain
    return {
        "question_id": question.id,
        "question": question.text,
        "kind": question.kind,
        "domain_id": domain.id,
        "domain": domain.name,
        "domain_description": domain.description,
        "round": question.round,
        "key": question.key,
        "dropped": gone,
    }


def _write(out: IO[str], row: dict[str, Any]) -> None:
    out.write(json.dumps(row, ensure_ascii=False) + "\n")


# ---------------------------------------------------------------- the report


def report(made: Chatting, summary: dict[str, Any], directory: Path, to: Path) -> int:
    """Writes report.json and report.html on a directory's chats. Returns how many hold text of evaluations."""
    to.mkdir(parents=True, exist_ok=True)
    leak = leak_of()
    cells: dict[str, collections.Counter[str]] = {}
    lengths: dict[str, list[int]] = {"question": [], "thoughts": [], "response": []}
    leaks: list[str] = []
    cited: collections.Counter[str] = collections.Counter()
    for found in artifact.each_row(directory / made.files[0]):
        cells.setdefault(found["domain"], collections.Counter())[found["question_kind"]] += 1
        cited.update(found["rules"])
        user, assistant = (message["content"] for message in found["messages"])
        response = stripped(found)["messages"][1]["content"]
        for name, text in (("question", user), ("thoughts", assistant[: -len(response)]), ("response", response)):
            lengths[name].append(len(text.split()))
        leaks += [found["id"]] if any(map(leak, (user, assistant))) else []
    content = summary | {
        "spec": made.spec.name,
        "style": made.style,
        "criteria": made.criteria,
        "threshold": made.config.threshold,
        "domains": {name: dict(counts) for name, counts in cells.items()},
        "kinds": dict(sum(cells.values(), collections.Counter())),
        "words": {name: _length(values) for name, values in lengths.items()},
        "rules_cited": dict(cited),
        "leaks": leaks,
    }
    artifact.write_atomic(to / "report.json", json.dumps(content, indent=1))
    page = jinja2.Environment(autoescape=True).from_string(_PAGE.read_text())
    artifact.write_atomic(to / "report.html", page.render(**content, total=lambda counts: sum(counts.values())))
    return len(leaks)


def _length(values: list[int]) -> dict[str, float]:
    if not values:
        return {"mean": 0, "median": 0, "longest": 0}
    return {"mean": round(statistics.mean(values), 1), "median": statistics.median(values), "longest": max(values)}


# ---------------------------------------------------------------- the whole


def write(
    made: Chatting,
    run: Rounds,
    summary: dict[str, Any],
    store: Store,
    job: artifact.Job,
    work: Path,
    projected: list[Row],
) -> None:
    """The artefact config.out. Raises UserError where there are too few chats, or one leaks; the work remains."""
    with job:
        counts = write_rows(made, run, store, job.tmp)
        leaks = report(made, summary, job.tmp, work / REPORT)
        _check(made, run, counts["chats"], leaks, work)
        (job.tmp / REPORT).mkdir()
        for path in sorted((work / REPORT).iterdir()):
            storage.copy(path, job.tmp / REPORT / path.name)
        for name in made.files:
            parquet.write(job.tmp / name, job.tmp / name.replace(".jsonl", ".parquet"))
        _write_subsets(made, job.tmp)
        cost = {"projected": [dataclasses.asdict(one) for one in projected], "ledger": store.totals()}
        artifact.write_atomic(job.tmp / "cost.json", json.dumps(cost, indent=1))
        spec = {"name": made.spec.name, "sha256": made.spec.sha256, "digest": made.spec.digest}
        job.finish(**counts, asked=run.asked, rounds=len(run.done), spec=spec, cost_usd=round(store.money()[0], 6))
    cli.note(f"{made.config.out}: {counts['chats']} chats, {counts['rejected']} rejected; see {REPORT}/report.html")


def _check(made: Chatting, run: Rounds, chats: int, leaks: int, work: Path) -> None:
    target, seen = made.config.target, work / REPORT
    if chats < (target or 1):
        rate = f"{run.passed / run.asked:.0%}" if run.asked else "none"
        more = "config.counts.questions or config.backfill.rounds" if not made.given else "the number of questions"
        raise UserError(
            f"{made.config.out}: {chats} of {target} chats after {len(run.done)} rounds, {rate} of {run.asked} "
            f"questions passed; read {seen / 'report.html'} for what did not, then raise {more}, or lower "
            f"config.target; all answers are kept in {work}"
        )
    if leaks:
        raise UserError(f"{seen}: {leaks} chats hold text of evaluations")
    if odd := [n for n in made.config.subsets if n > chats]:
        raise UserError(f"config.subsets: {odd[0]} chats are wanted and {chats} passed; leave it out")


def _write_subsets(made: Chatting, to: Path) -> None:
    """subsets/chats-N.jsonl: the first N rows of either twin."""
    for n, name in itertools.product(made.config.subsets, made.files):
        (to / "subsets").mkdir(exist_ok=True)
        with (to / name).open() as rows, (to / "subsets" / name.replace(".jsonl", f"-{n}.jsonl")).open("w") as out:
            out.writelines(itertools.islice(rows, n))
