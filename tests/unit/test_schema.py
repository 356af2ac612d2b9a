"""The published JSON Schema of the images file: up to date, and of one mind with the tool."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from seawall.errors import InputError
from seawall.images import read_images
from seawall.schema import images_schema

TOP = Path(__file__).resolve().parents[2]
PUBLISHED = TOP / "tools/seawall/images.schema.json"
SCHEMA = json.loads(images_schema())


def complaints(document: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(document)]


def images_file(**fields: Any) -> dict[str, Any]:
    return {"version": 1, "name": "x", "images": [{"source": "docker://alpine", "tags": ["1"]} | fields]}


def test_the_published_schema_is_the_models_own() -> None:
    assert PUBLISHED.read_text() == images_schema(), "run make schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_field_is_explained() -> None:
    for fields in (SCHEMA["properties"], *(model["properties"] for model in SCHEMA["$defs"].values())):
        assert all(field["description"] for field in fields.values())


@pytest.mark.parametrize("path", sorted(TOP.glob("inventory/*/images.yml")), ids=lambda path: path.parent.name)
def test_the_inventorys_images_files_name_the_schema_and_fit_it(path: Path) -> None:
    text = path.read_text()
    line = next(line for line in text.splitlines() if line.startswith("# yaml-language-server: $schema="))
    assert (path.parent / line.partition("=")[2]).resolve() == PUBLISHED
    assert complaints(yaml.safe_load(text)) == []


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({}, True),
        ({"tags": [3.2, "latest", "3.*", {"glob": "a*", "newest": 2}]}, True),
        ({"tags": [{"range": ">=3,<4", "suffix": "-alpine", "prereleases": True}], "immutable": ["1"]}, True),
        ({"immutable": True, "plain_http": False, "name": "a/b"}, True),
        ({"platforms": ["linux/amd64", "linux/arm/v7"]}, True),
        ({"platforms": []}, False),
        ({"platforms": ["amd64"]}, False),
        ({"tags": []}, False),
        ({"tags": "1"}, False),
        ({"tags": ["a/b"]}, False),
        ({"tags": [{"newest": 2}]}, False),
        ({"tags": [{"glob": "a", "newest": 0}]}, False),
        ({"tags": [{"glob": "a", "newer": 1}]}, False),
        ({"immutable": "perhaps"}, False),
        ({"sauce": "x"}, False),
    ],
    ids=str,
)
def test_the_schema_accepts_what_the_tool_accepts(fields: dict[str, Any], fits: bool, tmp_path: Path) -> None:
    document = images_file(**fields)
    path = tmp_path / "images.yml"
    path.write_text(yaml.safe_dump(document))
    try:
        accepted = bool(read_images(path))
    except InputError:
        accepted = False
    assert (accepted, complaints(document) == []) == (fits, fits)
