"""Which JSON schemas structured outputs take.

Source: "JSON Schema limitations" of platform.claude.com/docs/en/build-with-claude/structured-outputs, and what
`transform_schema` of the anthropic package moves into descriptions.
"""

import re
from typing import Any

NOTES = {"title", "description", "default", "$schema", "$id", "$comment", "examples"}
JOINS = {"anyOf", "allOf"}
HELD = {"$defs", "definitions"}
BY_TYPE: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems"},
    "string": {"format", "pattern"},
    "integer": set(),
    "number": set(),
    "boolean": set(),
    "null": set(),
}
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
ODD = re.compile(r"\(\?|\\[bB1-9]")  # look-around, named groups, word boundaries, backreferences
OPTIONAL, UNIONS = 24, 16  # parameters that are not required; with several types: at most so many in one schema


def wrong(schema: Any) -> str:
    """What the API refuses of a schema, in a line; empty if it takes it."""
    if not isinstance(schema, dict):
        return "Input should be an object"
    target = schema
    if "$ref" in schema:
        target = _resolve(schema["$ref"], schema) or {}
    if not isinstance(target, dict) or target.get("type") != "object":
        return "the root must be of type object"
    try:
        counts = {"optional": 0, "unions": 0}
        _walk(schema, schema, (), counts)
        for held in HELD & schema.keys():
            for name, inner in schema[held].items():
                _walk(inner, schema, (f"#/{held}/{name}",), counts)
    except _WrongError as error:
        return str(error)
    except (AttributeError, TypeError, re.error) as error:  # a keyword whose value is of the wrong type
        return f"Invalid schema: {error}"
    if counts["optional"] > OPTIONAL:
        return f"Schema has too many optional parameters: {counts['optional']} > {OPTIONAL}"
    if counts["unions"] > UNIONS:
        return f"Schema has too many parameters with union types: {counts['unions']} > {UNIONS}"
    return ""


class _WrongError(Exception):
    pass


def _walk(schema: Any, root: dict[str, Any], inside: tuple[str, ...], counts: dict[str, int]) -> None:
    if not isinstance(schema, dict):
        raise _WrongError("every schema must be an object")
    if "$ref" in schema:
        ref = schema["$ref"]
        found = _resolve(ref, root)
        if found is None:
            raise _WrongError(f"$ref {ref!r} cannot be resolved; external references are not supported")
        if ref in inside:
            raise _WrongError(f"recursive schemas are not supported: {ref!r}")
        _walk(found, root, (*inside, ref), {"optional": 0, "unions": 0})
        return
    for key in {"title", "description"} & schema.keys():
        if not isinstance(schema[key], str):
            raise _WrongError(f"{key} must be a string")
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    for kind in kinds:
        if kind not in BY_TYPE:
            raise _WrongError(f"type {kind!r} is not supported")
    if not kinds and not ({"enum", "const"} | JOINS) & schema.keys():
        raise _WrongError("every schema must have a type, enum, const, anyOf, allOf or $ref")
    known = NOTES | JOINS | HELD | {"type", "enum", "const"} | {key for kind in kinds for key in BY_TYPE[kind]}
    for key in schema:
        if key not in known:
            raise _WrongError(f"For {'/'.join(kinds) or 'this'!r} type, property {key!r} is not supported")
    for value in [*schema.get("enum", []), schema.get("const")]:
        if isinstance(value, dict | list):
            raise _WrongError("enum and const values must be strings, numbers, booleans or null")
    counts["unions"] += len(kinds) > 1 or "anyOf" in schema
    for join in JOINS & schema.keys():
        for inner in schema[join]:
            _walk(inner, root, inside, counts)
    if "object" in kinds:
        if schema.get("additionalProperties") is not False:
            raise _WrongError("For 'object' type, 'additionalProperties' must be explicitly set to false")
        inner = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in inner:
                raise _WrongError(f"required property {name!r} is not among the properties")
        counts["optional"] += len(inner.keys() - set(schema.get("required", [])))
        for value in inner.values():
            _walk(value, root, inside, counts)
    if "array" in kinds:
        if schema.get("minItems", 0) not in (0, 1):
            raise _WrongError("For 'array' type, 'minItems' values other than 0 or 1 are not supported")
        if "items" in schema:
            _walk(schema["items"], root, inside, counts)
    if "format" in schema and schema["format"] not in FORMATS:
        raise _WrongError(f"For 'string' type, format {schema['format']!r} is not supported")
    if "pattern" in schema and ODD.search(schema["pattern"]):
        raise _WrongError(f"For 'string' type, pattern {schema['pattern']!r} is too complex")


def _resolve(ref: str, root: dict[str, Any]) -> Any:
    parts = ref.split("/") if isinstance(ref, str) else []
    if len(parts) != 3 or parts[0] != "#" or parts[1] not in HELD:
        return None
    return root.get(parts[1], {}).get(parts[2])
