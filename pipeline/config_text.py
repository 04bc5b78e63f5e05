"""The text side of configuration: reading YAML, applying `--set`, explaining mistakes.

Knows pydantic's error format and no section of the configuration.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from luvc.compression import suggest
from luvc.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML 1.2 where 1.1 surprises: only true/false are booleans, 1e9 is a number, a key stands once.

    In YAML 1.1 `compression: off` is False, `{no: text}` has the key False and `1e9` is a string.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_REPLACED = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|nan))$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """YAML with the surprises of version 1.1 removed. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError."""
    try:
        values = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file", "see configs/ for examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(values).__name__}")
    return values


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with each "a.b=c" applied; `values` itself is not changed.

    Values are YAML (`--set sampling.frames=8`, `--set 'prompts={a: What is this?}'`). Lists take an index,
    and the index after the last appends. Raises ConfigError.
    """
    result: Any = dict(values)
    for override in overrides:
        key, (_, equals, text) = _override_key(override), override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {key}: not of the form key=value", "for example --set sampling.frames=8")
        value = _parse_value(text)
        result = _set(result, key.split("."), value, key)
    return typing.cast("dict[str, Any]", result)


def _parse_value(text: str) -> Any:
    """YAML; but `What: is this?` is a prompt, not a mapping: those are written with braces or brackets here."""
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, (dict, list)) and text.strip()[:1] not in ("{", "[") else value


def _set(node: Any, keys: list[str], value: Any, full_key: str, done: str = "") -> Any:
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    where = f"{done}.{key}" if done else key
    if isinstance(node, (list, tuple)):
        items = list(node)
        if not key.isdigit() or int(key) > len(items):
            raise ConfigError(f"--set {full_key}: {where}: not an index of a list of {len(items)}")
        if int(key) == len(items):
            items.append(None)
        items[int(key)] = _set(items[int(key)], rest, value, full_key, where)
        return items
    if isinstance(node, str) and done == "compression":
        node = {"preset": node}  # `compression: balanced` and `--set compression.merge.keep=0.5` go together
    elif node is None or isinstance(node, bool) or (isinstance(node, str) and done.startswith("compression.")):
        node = {}
    if not isinstance(node, Mapping):
        raise ConfigError(f"--set {full_key}: {done} is not a mapping, it has no key {key!r}")
    return {**node, key: _set(node.get(key), rest, value, full_key, where)}


def explain(error: ValidationError, root: type[BaseModel], origin: str, overrides: Sequence[str]) -> ConfigError:
    """One `ConfigError` for all mistakes pydantic found, each with file (or --set), key and value."""
    problems: dict[str, str] = {}
    errors = error.errors(include_url=False)
    for item in errors:
        location = [part for part in item["loc"] if not _is_union_branch(part)]
        if item["type"] == "too_short" and any(len(other["loc"]) > len(item["loc"]) for other in errors):
            continue  # pydantic counts an item that failed as absent; its own error says it better
        key = ".".join(str(part) for part in location)
        source = next((f"--set {name}" for name in map(_override_key, overrides) if _covers(name, key)), origin)
        if item["type"] == "extra_forbidden":
            message, hint = f"{source}: unknown key {key!r}", _suggest_key(root, location)
        elif item["type"] == "missing":
            message, hint = f"{source}: {key!r} is missing", "every run needs it"
        else:
            wanted = item["msg"].removeprefix("Value error, ")
            # Never quote storage options, alone or inside what holds them: they carry credentials.
            quotable = isinstance(item["input"], (str, int, float, type(None))) and "storage" not in location
            given = f"{item['input']!r} is not allowed: " if quotable else ""
            message, hint = f"{source}: {key}: {given}{wanted}", ""
        problems.setdefault(message, hint)
    if len(problems) == 1:
        ((message, hint),) = problems.items()
        return ConfigError(message, hint)
    return ConfigError("\n".join(f"{message} ({hint})" if hint else message for message, hint in problems.items()))


def _is_union_branch(part: Any) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("float", "constrained-float", "int", "str"))


def _override_key(override: str) -> str:
    return override.partition("=")[0].strip()


def _covers(override_key: str, key: str) -> bool:
    return key == override_key or key.startswith(override_key + ".")


def _suggest_key(root: type[BaseModel], location: Sequence[Any]) -> str:
    """The same key in another section, else the nearest key of this section, else all of this section."""
    unknown = str(location[-1])
    section: type[BaseModel] | None = root
    for part in location[:-1]:
        if section is not None and part in section.model_fields:
            section = _model_in(section.model_fields[str(part)].annotation)
    known = list(section.model_fields) if section is not None else []
    elsewhere = [path for path in _all_keys(root) if path.split(".")[-1] == unknown]
    if elsewhere:
        return f"did you mean {elsewhere[0]!r}?"
    return suggest(unknown, known)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in typing.get_args(annotation) if (found := _model_in(inner))), None)


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = _model_in(field.annotation)
        if inner is not None:
            yield from _all_keys(inner, f"{prefix}{name}.")
