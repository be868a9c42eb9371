"""JSON Schemas of bodies and parameters, and the components of a document that they refer to.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from toril.web.openapi.description import Parameter

Json = dict[str, Any]

REF = "#/components/schemas/{name}"
RETRY_AFTER: Json = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
"""The header of an answer that says when to come again."""


class Schemas:
    """The schemas of these kinds; None among them is no kind.

    `components` are those that have a name; `responses` is for answers that several routes share.
    """

    def __init__(self, kinds: Iterable[Any]) -> None:
        self._kinds = [kind for kind in kinds if kind is not None]
        schemas, components = msgspec.json.schema_components(self._kinds, ref_template=REF)
        self._schemas = [_portable(schema) for schema in schemas]
        self.components: Json = {name: _portable(schema) for name, schema in sorted(components.items())}
        self.responses: Json = {}

    def of(self, kind: Any) -> Json:
        """Return the schema of a kind, most often a reference."""
        found: Json = self._schemas[next(place for place, known in enumerate(self._kinds) if known == kind)]
        return found

    def body(self, kind: Any) -> Json:
        """Return the schema of a request's body, without a tag that is part of the path."""
        schema: Json = self.of(kind)
        tag = kind.__struct_config__.tag_field if isinstance(kind, type) and issubclass(kind, Struct) else None
        if tag is None:
            return schema
        whole: Json = self.components[schema["$ref"].rpartition("/")[2]]
        fields = {name: field for name, field in whole["properties"].items() if name != tag}
        return whole | {"properties": fields, "required": [name for name in whole["required"] if name != tag]}

    def parameter(self, parameter: Parameter) -> Json:
        """Return a query parameter or a header of a request."""
        return {
            "name": parameter.name,
            "in": parameter.place,
            "required": parameter.required,
            "description": parameter.text,
            "schema": self.of(parameter.kind),
        }

    def header(self, parameter: Parameter) -> Json:
        """Return a header of an answer."""
        return {"description": parameter.text, "required": parameter.required, "schema": self.of(parameter.kind)}


def _portable(schema: Any) -> Any:
    """Return a schema with its patterns as in ECMA-262, which has no `\\A` and no `\\Z`."""
    if isinstance(schema, dict):
        return {
            key: part.replace(r"\A", "^").replace(r"\Z", "$")
            if key == "pattern" and isinstance(part, str)
            else _portable(part)
            for key, part in schema.items()
        }
    return [_portable(part) for part in schema] if isinstance(schema, list) else schema
