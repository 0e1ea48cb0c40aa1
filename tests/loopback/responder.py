"""The default answers: valid against the schema, else tagged paragraphs; a function of what is asked."""

import hashlib
import json
import random
import re
from typing import Any

_WORDS = """
amber brisk calm distant early faint gentle hollow inner jagged keen late mild narrow open plain quiet rough slow tidy
archive bridge canal dispatch engine ferry garden harbour inquiry journal kiln ledger market notice orchard quarry river
carries delays explains follows governs holds informs joins keeps lends marks names observes precedes settles traces
"""
ADJECTIVES, NOUNS, VERBS = (line.split() for line in _WORDS.strip().splitlines())
TOLD = re.compile(r"\b(minItems|maxItems|minimum|maximum|minLength|maxLength): (-?\d+)")


def reply(model: str, system: str, user: str, schema: dict[str, Any] | None) -> str:
    asked = "\0".join((model, system, user, json.dumps(schema, sort_keys=True)))
    rng = random.Random(hashlib.sha256(asked.encode("utf-8", "surrogatepass")).digest())
    if schema is not None:
        return json.dumps(instance(schema, schema, rng), ensure_ascii=False)
    paragraphs = "\n\n".join(" ".join(sentence(rng) for _ in range(4)) for _ in range(3))
    return f"<plan>{sentence(rng)}</plan>\n<document>\n{paragraphs}\n</document>"


def phrase(rng: random.Random) -> str:
    """A few words; one of 30 million, so that neighbours differ."""
    first, second = rng.sample(ADJECTIVES, 2)
    return f"{first} {rng.choice(NOUNS)} of the {second} {rng.choice(NOUNS)} {rng.randrange(300)}"


def sentence(rng: random.Random) -> str:
    return f"The {phrase(rng)} {rng.choice(VERBS)} the {phrase(rng)}."


def instance(schema: dict[str, Any], root: dict[str, Any], rng: random.Random) -> Any:
    """A value that the schema allows, and that keeps the limits that its description tells."""
    if "$ref" in schema:
        _, held, name = schema["$ref"].split("/")
        return instance(root[held][name], root, rng)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    for join in ("anyOf", "oneOf"):
        if join in schema:
            return instance(rng.choice(schema[join]), root, rng)
    if "allOf" in schema:
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged |= part | {"properties": merged.get("properties", {}) | part.get("properties", {})}
        return instance({k: v for k, v in schema.items() if k != "allOf"} | merged, root, rng)
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    limits = {key: int(value) for key, value in TOLD.findall(schema.get("description", ""))}
    limits |= {
        key: schema[key]
        for key in ("minItems", "maxItems", "minimum", "maximum", "minLength", "maxLength")
        if key in schema and key not in limits
    }
    if kind == "object":
        return {key: instance(inner, root, rng) for key, inner in schema.get("properties", {}).items()}
    if kind == "array":
        least = limits.get("minItems", 0)
        most = limits.get("maxItems", max(least, 3))
        items = schema.get("items", {"type": "string"})
        return [instance(items, root, rng) for _ in range(rng.randint(min(max(least, 1), most), most))]
    if kind in ("integer", "number"):
        low = limits.get("minimum", 0)
        return rng.randint(low, limits.get("maximum", low + 9))
    if kind == "string":
        text = FORMATS[schema["format"]] if schema.get("format") in FORMATS else phrase(rng)
        while len(text) < limits.get("minLength", 0):
            text += " " + sentence(rng)
        return text[: limits.get("maxLength", len(text))]
    return {"boolean": rng.random() < 0.5, "null": None}[kind]


FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "date": "2026-01-02",
    "duration": "P1D",
    "email": "someone@example.org",
    "hostname": "example.org",
    "uri": "https://example.org/a",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "12345678-1234-4234-8234-123456789abc",
}
