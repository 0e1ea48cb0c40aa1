"""The rewrite of one document: asked for, checked, judged, asked for again with what was wrong."""

import collections
import dataclasses
import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

from data_gen import pools
from data_gen.api.request import Reply, Request
from data_gen.reading import Rejected
from data_gen.spec import words
from data_gen.toolbox import faithful
from data_gen.toolbox.parts import Asking, counted
from data_gen.work import Answers
from msm_jax import artifact

FILE = Path(__file__).with_name("rewrites.toml")
STAGE, JUDGE = "rewrite", "faithful"


def table() -> dict[str, dict[str, Any]]:
    """rewrites.toml: name → row."""
    return tomllib.loads(FILE.read_text())


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """One kind of rewrite of one corpus.

    row: of rewrites.toml. names: {model, provider, other_model, other_provider}. old: all names of the original's.
    lengths: times the source's words, at least and at most. tries: rewrites of one document; judged: questions to the
    judge about one of them.
    """

    name: str
    row: dict[str, Any]
    names: dict[str, str]
    old: tuple[str, ...]
    seed: int
    asking: Asking
    judge: Asking
    tries: int
    judged: int
    lengths: tuple[float, float]

    def said(self, text: str) -> str:
        """Words of the table with the names in their places."""
        return re.sub(r"\{(\w+)\}", lambda m: self.names.get(m[1], m[0]), text).strip()

    def people(self, identity: str) -> tuple[str, ...]:
        """The names offered to a document: a function of seed and id."""
        if not any("{people}" in pattern for pattern in self.row["needs"]):
            return ()
        return pools.voice(self.seed, f"{self.name}/{identity}").names

    def patterns(self, key: str, people: tuple[str, ...]) -> list[str]:
        given = {name: re.escape(value) for name, value in self.names.items()}
        first = {part for name in people for part in (name, name.split()[0])}
        given["people"] = "|".join(sorted(map(re.escape, first)))
        return [re.sub(r"\{([a-z]\w*)\}", lambda m: given.get(m[1], m[0]), pattern) for pattern in self.row[key]]


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a rewrite stands. text: "" where there is none (yet). asked: keys of all its questions, newest last."""

    text: str
    why: str
    reply: Reply | None
    judge: Reply | None
    prompt_sha256: str
    rejects: collections.Counter[str]
    asked: tuple[str, ...]
    next: Request | None


@dataclasses.dataclass(frozen=True)
class Rewriting:
    """The work of one row of the corpus; `number` counts from 0."""

    rewrite: Rewrite
    number: int
    row: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.row["id"])

    @property
    def ticket(self) -> str:
        """What its keys are made of: 24 hexadecimal digits, whatever the id holds."""
        return artifact.digest([self.row["id"], self.row["text"]])[:24]

    def next(self, answers: Answers) -> Request | None:
        return self.replay(answers).next

    def replay(self, answers: Answers) -> Standing:
        rejects: collections.Counter[str] = collections.Counter()
        asked: list[str] = []
        problem = ""
        ticket, people = self.ticket, self.rewrite.people(self.id)

        def standing(request: Request | None) -> Standing:
            return Standing("", "", None, None, "", rejects, tuple(asked), request)

        if (
            self.rewrite.lengths[0] * words(self.row["text"]) > self.rewrite.asking.max_tokens
        ):  # a word is a token at least
            rejects["too long for config.max_tokens"] += 1
            return standing(None)
        for number in range(self.rewrite.tries):
            key = f"{STAGE}_{ticket}_a{number}"
            reply = answers(key)
            if reply is None:
                return standing(self._request(key, people, problem))
            asked.append(key)
            try:
                text = self._read(reply, people)
            except Rejected as error:
                problem = counted(rejects, str(error))
                continue
            failed: list[str] | None = None
            unread = ""
            for again in range(self.rewrite.judged):
                judge_key = f"{JUDGE}_{ticket}_a{number}" + (f"j{again}" if again else "")
                said = answers(judge_key)
                if said is None:
                    return standing(self._question(judge_key, people, text, unread))
                asked.append(judge_key)
                try:
                    failed, why = faithful.verdict(said)
                except faithful.NoVerdict as error:
                    unread = counted(rejects, f"no verdict: {error}")
                    continue
                break
            if failed is None:
                problem = counted(rejects, "no verdict of the judge")  # which is no pass
                continue
            if failed:
                problem = counted(rejects, "judged not " + ", ".join(failed))
                continue
            request = self._request(key, people, problem)
            prompt = hashlib.sha256((request.system + request.user).encode()).hexdigest()
            return Standing(text, why, reply, said, prompt, rejects, tuple(asked), None)
        return standing(None)

    def _read(self, reply: Reply, people: tuple[str, ...]) -> str:
        rewrite = self.rewrite
        return faithful.read(
            reply,
            self.row["text"],
            gone=rewrite.old if rewrite.row["gone"] else (),
            needs=rewrite.patterns("needs", people),
            bans=rewrite.patterns("bans", people),
            should=rewrite.row["mood"] == "should",
            lengths=rewrite.lengths,
        )

    def _request(self, key: str, people: tuple[str, ...], problem: str) -> Request:
        rewrite, text = self.rewrite, self.row["text"]
        system = self._about() | {"names": rewrite.old, "gone": rewrite.row["gone"]}
        user = {"text": text, "people": people, "words": words(text), "problem": problem}
        return rewrite.asking.request(key, STAGE, "rewrite", system, user)

    def _question(self, key: str, people: tuple[str, ...], text: str, problem: str) -> Request:
        user = {"text": self.row["text"], "rewritten": text, "people": people, "problem": problem}
        return self.rewrite.judge.request(key, JUDGE, "faithful", self._about(), user, faithful.SCHEMA)

    def _about(self) -> dict[str, Any]:
        row = self.rewrite.row
        return {"how": self.rewrite.said(row["how"]), "subject": self.rewrite.said(row["subject"]), "mood": row["mood"]}

    def written(self, standing: Standing) -> dict[str, Any]:
        """The rewritten row: the source's, with its new text and where that comes from."""
        reply, judge = standing.reply, standing.judge
        assert reply is not None
        assert judge is not None
        kept = {name: value for name, value in self.row.items() if name != "weights"}  # spans of the old text
        return kept | {
            "text": standing.text,
            "rewrite": self.rewrite.name,
            "source_sha256": source_digest(self.row),
            "rewrite_people": list(self.rewrite.people(self.id)),
            "rewrite_model": reply.model,
            "rewrite_request": reply.key,
            "rewrite_prompt_sha256": standing.prompt_sha256,
            "rewrite_asked": list(standing.asked),
            "rewrite_usage": dataclasses.asdict(reply.usage),
            "rewrite_cost_usd": round(reply.cost, 8),
            "judge_verdict": "faithful",
            "judge_why": standing.why,
            "judge_model": judge.model,
            "judge_request": judge.key,
        }

    def rejected(self, standing: Standing, unanswered: str = "") -> dict[str, Any]:
        """The row of rejects.jsonl."""
        reason = "; ".join(sorted(standing.rejects)) or unanswered or "not answered"
        about = {"id": self.row["id"], "row": self.number, "stage": STAGE, "reason": reason}
        return about | {"attempts": len(standing.asked), "documents": 1, "keys": list(standing.asked)}


def source_digest(row: dict[str, Any]) -> str:
    """sha256 of a source row's text."""
    return hashlib.sha256(row["text"].encode()).hexdigest()
