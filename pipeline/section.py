"""Base of every configuration section: frozen, unknown keys forbidden, paths made absolute.

Each section lives beside the code it configures; `pipeline.config` puts them together. Knows no section.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: `$NAME` or `${NAME}` in a value.
VARIABLE = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<bare>[A-Za-z_][A-Za-z0-9_]*))")


class Section(BaseModel):
    """One section of the YAML: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def expand_text(text: str) -> str:
    """`$NAME` and `${NAME}` replaced from the environment.

    Raises:
        ValueError: a variable is not set; a path with a literal `$` in it would only fail later and worse.
    """

    def value_of(match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"] or ""
        if name not in os.environ:
            raise ValueError(f"environment variable {name!r} is not set")
        return os.environ[name]

    return VARIABLE.sub(value_of, text)


def expand_url(text: str) -> str:
    """A URL as it is; a local path absolute, with `~` and environment variables replaced.

    Relative paths start at the current working directory, not at the configuration's folder: the paths in a
    configuration are then the ones the shell completes. They are made absolute at once because workers of a
    cluster run in another directory.
    """
    text = expand_text(text.strip())
    if not text:
        raise ValueError("a path must not be empty")
    if "://" in text and not text.startswith("file://"):
        return text
    local = text.removeprefix("file://")
    return os.path.normpath(Path(local).expanduser().absolute())


def _expand_options(options: dict[str, Any]) -> dict[str, Any]:
    return {key: _expand_any(value) for key, value in options.items()}


def _expand_any(value: Any) -> Any:
    if isinstance(value, str):
        return expand_text(value)
    if isinstance(value, dict):
        return _expand_options(value)
    return value


#: A local path or any URL that fsspec understands.
Url = Annotated[str, AfterValidator(expand_url)]

#: Options for fsspec. They carry credentials: they are never printed (`repr`) and never written (`exclude`).
StorageOptions = Annotated[dict[str, Any], AfterValidator(_expand_options), Field(repr=False, exclude=True)]
