"""The JSON Schema of the images file, which editors complete and check by: ``python -m seawall.schema`` prints it.

It is made from the model that the tool itself reads by, so that the two cannot differ.
"""

import json
import sys
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from seawall.images import ImagesFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _AsWritten(GenerateJsonSchema):
    """The model as a person writes it in YAML: 3.20 is a number there, and the tool reads it as text."""

    schema_dialect = DIALECT

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        return super().str_schema(schema) | {"type": ["string", "number"]}

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        numbers = [int(value) for value in schema["expected"] if str(value).isdecimal()]
        return {"enum": [*numbers, *schema["expected"]]}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        # What is not wanted is left out; nobody writes null for it.
        return self.generate_inner(schema["schema"])

    def get_title_from_name(self, name: str) -> str:
        return name


def images_schema() -> str:
    """Return the JSON Schema of the images file as its own file has it."""
    document = ImagesFile.model_json_schema(schema_generator=_AsWritten)
    document = {"$schema": DIALECT, **document, "title": "Seawall images file"}
    return json.dumps(_plain(document), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """Return *value* without defaults that stand for a missing field, and descriptions without Sphinx's marks."""
    if isinstance(value, dict):
        empty = value.get("default", ()) in ("", None)
        return {key: _plain(inner) for key, inner in value.items() if not (key == "default" and empty)}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return " ".join(value.replace("``", "`").split()) if isinstance(value, str) else value


if __name__ == "__main__":
    sys.stdout.write(images_schema())
