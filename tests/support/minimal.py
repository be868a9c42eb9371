"""The smallest valid value of a JSON Schema, as far as our own OpenAPI document uses it."""

from typing import Any


def minimal(schema: dict[str, Any], document: dict[str, Any], named: dict[str, Any], name: str = "") -> Any:
    """A value that has what is required and nothing else; ``named`` has the values of properties by their name."""
    if name in named:
        return named[name]
    if "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return minimal(target, document, named, name)
    for choice in ("oneOf", "anyOf", "allOf"):
        if choice in schema:
            return minimal(schema[choice][0], document, named, name)
    if "const" in schema or "enum" in schema or "default" in schema:
        return schema.get("const", schema.get("default", schema.get("enum", [None])[0]))
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    match kind:
        case "object":
            properties = schema.get("properties", {})
            return {key: minimal(properties[key], document, named, key) for key in schema.get("required", [])}
        case "array":
            return [minimal(schema["items"], document, named)]
        case "integer" | "number":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "x" * max(3, schema.get("minLength", 3))
