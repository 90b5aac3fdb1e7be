"""Read settings from YAML and from `--set a.b=c`, with errors that name the field."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from perception.config.paths import find_config
from perception.config.schema import ServiceConfig
from perception.core.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def load_service_config(name_or_path: str | None = None, overrides: Sequence[str] = ()) -> ServiceConfig:
    """The service's settings: a shipped name (`configs/service/*.yaml`), a path, or the defaults; then `overrides`."""
    path = find_config("service", name_or_path) if name_or_path else None
    return load_settings(ServiceConfig, path, overrides)


def load_settings(model: type[Model], path: Path | None, overrides: Sequence[str] = ()) -> Model:
    """Validate a YAML file and overrides (`a.b=c`, the value read as YAML) as `model`.

    Raises ConfigError that names the file, the field, and what is allowed there.
    """
    values = read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply_override(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(model, path, overrides, error)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping. Raises ConfigError where it is not one."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not a {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        raise ConfigError(f"--set takes a.b=c, got {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value") from None
    node = values
    for name in names[:-1]:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {name} is a value, it has no field below it")
        node = child
    node[names[-1]] = value


def _explain(model: type[BaseModel], path: Path | None, overrides: Sequence[str], error: ValidationError) -> str:
    """The problems of the file and of each override: the field, and what is allowed there."""
    found: dict[str, list[str]] = {}
    for problem in error.errors():
        location, given = problem["loc"], problem["input"]
        field = ".".join(map(str, location))
        if problem["type"] == "extra_forbidden":
            text = f"no such field; known here: {', '.join(_fields_at(model, location[:-1]))}"
        elif problem["type"] == "union_tag_not_found":
            text = f"the field {problem['ctx']['discriminator']} must say what it is"
        else:
            text = problem["msg"].removeprefix("Value error, ")
            # A whole table says nothing more than its place.
            text += "" if isinstance(given, dict | list) else f" (got {given!r})"
        line = f"{field}: {text}" if field else text
        found.setdefault(_origin(field, path, overrides), []).append(line)
    return "; ".join(f"{origin}: {'; '.join(lines)}" for origin, lines in found.items())


def _origin(field: str, path: Path | None, overrides: Sequence[str]) -> str:
    """What gave a field its value: the last override of it, of what holds it or of what it holds, else the file."""
    for override in reversed(overrides):
        key = override.partition("=")[0].strip()
        if f"{field}.".startswith(f"{key}.") or f"{key}.".startswith(f"{field}."):
            return override
    return str(path or "settings")


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields at a place of a pydantic error; rows of tuples and tags of unions are places of their own."""
    models: list[Any] = [model]
    for part in location:
        if isinstance(part, int):
            continue
        below = [
            inner for m in models if part in m.model_fields for inner in _models_in(m.model_fields[part].annotation)
        ]
        models = below or [m for m in models if any(get_args(f.annotation) == (part,) for f in m.model_fields.values())]
    return sorted({name for m in models for name in m.model_fields})


def _models_in(annotation: Any) -> list[Any]:
    """Every model that an annotation mentions, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for part in get_args(annotation) for inner in _models_in(part)]
