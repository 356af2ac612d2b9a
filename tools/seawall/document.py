"""YAML documents that people write: read strictly, with the line of every field kept for the error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from seawall.errors import InputError

Model = TypeVar("Model", bound=pydantic.BaseModel)
FieldPath = tuple[str | int, ...]

_MAX_BYTES = 64 * 1024 * 1024


def read_document(path: Path, model: type[Model]) -> Model:
    """Return the YAML file *path* as a *model*.

    Every scalar is read as the text that stands there, so that the tag ``3.20`` stays ``3.20`` and does
    not become the number 3.2; the model turns text into numbers and booleans where it wants them.

    Raises:
        InputError: the file cannot be read, is not YAML, names a key twice, or does not fit the model; the
            error names file, line and field.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "give the path of a readable file") from None
    if len(content) > _MAX_BYTES:
        raise InputError(str(path), f"is larger than {_MAX_BYTES} bytes", "give the file that was meant")
    return parse_document(content, str(path), model)


def parse_document(content: bytes, where: str, model: type[Model]) -> Model:
    """Return the YAML text *content* as a *model*; *where* names it in errors.

    Raises:
        InputError: as :func:`read_document`.
    """
    try:
        root = yaml.compose(content, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{where}:{line}", f"is not YAML: {error.problem}", "correct the syntax") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise InputError(where, f"is not YAML: {error}", "write it as UTF-8 text") from None
    lines: dict[FieldPath, int] = {(): 1}
    data = _plain(root, (), lines, where)
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        raise _input_error(error, lines, where) from None


def _plain(node: yaml.Node | None, path: FieldPath, lines: dict[FieldPath, int], where: str) -> Any:
    """Turn *node* into dicts, lists and strings, and note the line of each field."""
    if node is None:
        return {}
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in result:
                raise InputError(
                    f"{where}:{key_node.start_mark.line + 1}", f"{_spell((*path, key))} is given twice", "keep one"
                )
            result[key] = _plain(value_node, (*path, key), lines, where)
            lines[(*path, key)] = key_node.start_mark.line + 1
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*path, index), lines, where) for index, child in enumerate(node.value)]
    return node.value


def _input_error(error: pydantic.ValidationError, lines: Mapping[FieldPath, int], where: str) -> InputError:
    """Return the first complaint of *error*: one clear line helps more than a page of them."""
    first = error.errors(include_url=False)[0]
    known: FieldPath = ()
    for part in first["loc"]:
        # pydantic also names what a person did not write: the member of a union, the key of a mapping.
        if (*known, part) in lines:
            known = (*known, part)
    path = (*known, first["loc"][-1]) if first["type"] == "missing" else known
    # A validator wraps what it has to say in a ValueError, because pydantic listens to nothing else.
    cause = next(iter(getattr(first.get("ctx", {}).get("error"), "args", ())), None)
    if isinstance(cause, InputError):
        what, todo = cause.what, cause.todo
    elif first["type"] == "missing":
        what, todo = "is missing", "add it"
    elif first["type"] == "too_short":
        what, todo = "is empty", "name at least one"
    elif first["type"] == "extra_forbidden":
        what, todo = "is not a field that is known here", "remove it or correct its name"
    else:
        message = first["msg"]
        what = message[:1].lower() + message[1:]
        todo = "correct it"
    return InputError(f"{where}:{lines[known]}", f"{_spell(path)} {what}" if path else what, todo)


def _spell(path: FieldPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
