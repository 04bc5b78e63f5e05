"""What travels to a cluster with a run: its configuration as one file, checked here, and which of its paths mean
something there.

Variables (`${NAME}`) stay variables in the file: the cluster puts in its own values, so secrets need not travel.
Knows nothing of Ray, and never prints a value of `storage`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from luvc.errors import ConfigError
from pipeline.config import RunConfig, parse_config
from pipeline.config_text import apply_overrides, read_yaml
from pipeline.section import VARIABLE
from pipeline.storage import is_local

#: Keys of storage options whose values are secrets.
_SECRET = re.compile(r"secret|token|password|passwd|credential|connection_string|sas|(^|_)key($|_)|signature", re.I)


@dataclass(frozen=True)
class LocalPath:
    """A path of the configuration that is not a URL.

    Attributes:
        key: where it stands, e.g. "inputs.0.path".
        text: as written.
        absolute: as this machine understands it.
    """

    key: str
    text: str
    absolute: str

    @property
    def relative(self) -> bool:
        """Whether it depends on where the command is called."""
        return not self.text.strip().removeprefix("file://").startswith(("/", "$"))


@dataclass(frozen=True)
class Parcel:
    """A checked configuration, ready to travel.

    Attributes:
        values: the file's content with `--set` applied, variables not replaced.
        config: what it means on this machine.
        variables: names that it uses, set here or not; the nodes must have them.
        local_paths: paths that are not URLs.
    """

    values: dict[str, Any]
    config: RunConfig
    variables: tuple[str, ...]
    local_paths: tuple[LocalPath, ...]

    @property
    def output(self) -> str:
        """Where the results go, as written."""
        return str(self.values["output"]["path"])

    def text(self) -> str:
        """The YAML that travels."""
        return yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True, width=100)

    def with_values(self, changes: dict[str, Any]) -> Parcel:
        """The same with some keys ("output.path") replaced."""
        values: Any = self.values
        for key, value in changes.items():
            values = _replaced(values, key.split("."), value)
        return Parcel(values, self.config, self.variables, self.local_paths)

    def written_secrets(self) -> list[str]:
        """Keys of storage options that hold a secret itself instead of a variable."""
        places = [(f"inputs.{i}.storage", one) for i, one in enumerate(_inputs(self.values)) if isinstance(one, dict)]
        places.append(("output.storage", self.values.get("output") or {}))
        return [key for where, section in places for key in _secrets(section.get("storage") or {}, where)]


def pack(path: str | Path, overrides: Sequence[str] = ()) -> Parcel:
    """Read and check a configuration for a run elsewhere.

    Args:
        path: the YAML file.
        overrides: as given to `--set`.

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    values = apply_overrides(read_yaml(path), overrides)
    variables = tuple(sorted(_variables(values)))
    unset = [name for name in variables if name not in os.environ]
    with _stand_ins(unset):
        config = parse_config(values, origin=str(path), overrides=overrides)
    known = (path for path in _local_paths(values, config) if not _variables(path.text) & set(unset))
    return Parcel(values, config, variables, tuple(known))


def leads_nowhere(paths: Sequence[LocalPath]) -> ConfigError | None:
    """What is wrong with paths for a cluster on other machines; None if nothing is."""
    wrong = [path for path in paths if path.relative]
    if not wrong:
        return None
    listed = ", ".join(f"{path.key} {path.text!r}" for path in wrong)
    return ConfigError(
        f"the run happens on other machines, where a relative path leads nowhere: {listed}",
        "use a URL such as s3://bucket/folder, or an absolute path of a folder that all nodes share",
    )


def shared_folders(paths: Sequence[LocalPath]) -> list[str]:
    """What must be true of absolute paths for a cluster on other machines, a line each."""
    return [
        f"{path.key} {path.text!r} is looked for on the nodes: all of them must share it"
        for path in paths
        if not path.relative
    ]


def _local_paths(values: dict[str, Any], config: RunConfig) -> Iterator[LocalPath]:
    for index, source in enumerate(config.inputs):
        text = str(_inputs(values)[index].get("path", ""))
        if is_local(source.path):
            yield LocalPath(f"inputs.{index}.path", text, source.path)
    if is_local(config.output.path):
        yield LocalPath("output.path", str(values["output"]["path"]), config.output.path)
    model = values.get("model") or {}
    # A name on the hub is not a path; a folder of that name here is.
    if Path(config.model.id).is_absolute():
        yield LocalPath("model.id", str(model.get("id")), config.model.id)


def _inputs(values: dict[str, Any]) -> list[dict[str, Any]]:
    inputs = values.get("inputs")
    return inputs if isinstance(inputs, list) else []


def _variables(value: Any) -> set[str]:
    if isinstance(value, str):
        return {match["braced"] or match["bare"] or "" for match in VARIABLE.finditer(value)} - {""}
    if isinstance(value, dict):
        return {name for key, one in value.items() if key != "prompts" for name in _variables(one)}
    if isinstance(value, (list, tuple)):
        return {name for one in value for name in _variables(one)}
    return set()


@contextmanager
def _stand_ins(names: Sequence[str]) -> Iterator[None]:
    """Gives variables that only the cluster has a value, while a configuration is checked."""
    for name in names:
        os.environ[name] = f"/${name}"
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def _secrets(options: dict[str, Any], where: str) -> Iterator[str]:
    for key, value in options.items():
        if isinstance(value, dict):
            yield from _secrets(value, f"{where}.{key}")
        elif isinstance(value, str) and _SECRET.search(str(key)) and not VARIABLE.search(value):
            yield f"{where}.{key}"


def _replaced(node: Any, keys: list[str], value: Any) -> Any:
    if not keys:
        return value
    if isinstance(node, list):
        index = int(keys[0])
        return [_replaced(one, keys[1:], value) if at == index else one for at, one in enumerate(node)]
    node = node if isinstance(node, dict) else {}
    return {**node, keys[0]: _replaced(node.get(keys[0]), keys[1:], value)}
