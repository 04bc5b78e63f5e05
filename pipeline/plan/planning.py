"""Configuration in, manifest out: lists the inputs, looks at headers, makes rows; or adds files to what was planned.

What is wrong with one video becomes its row's error; only a configuration that plans nothing at all is raised.
Nothing is written here; facts of headers go out through `save` now and then, so that a plan that is interrupted goes on
where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from luvc.errors import ConfigError
from pipeline.plan.headers import Headers
from pipeline.plan.item import Item
from pipeline.plan.manifest import Summary, finish, rows_table, summarise
from pipeline.plan.planner import Planner
from pipeline.plan.sources import InputSource, list_items, storage_of

if TYPE_CHECKING:
    from pipeline.config import RunConfig

Progress = Callable[[int, int], None]

#: Videos whose rows are Python objects at the same time.
WINDOW_ITEMS = 10_000
SAVE_EVERY_S = 300.0
_FINGERPRINT = b"luvc.plan"


@dataclass(frozen=True)
class Plan:
    """A manifest (`pipeline.schemas.MANIFEST`), its figures, and the facts of its files (`pipeline.schemas.PROBES`)."""

    table: pa.Table
    summary: Summary
    probes: pa.Table


def plan(
    config: RunConfig,
    progress: Progress | None = None,
    known: pa.Table | None = None,
    save: Callable[[pa.Table], None] | None = None,
) -> Plan:
    """Plan all units of a run.

    Args:
        config: of the run.
        progress: called now and then with (videos looked at, videos).
        known: facts of files from an earlier plan, `[PROBES]`: headers of files that have not changed are not read.
        save: takes such a table, to keep what was read so far.

    Raises:
        ConfigError: an input with nothing in it, or a bad input manifest.
        ModelError: the model's `config.json` cannot be had or is not supported.
    """
    planner = Planner.of(config)
    headers = Headers(known, config.sampling.mode == "key_frames")
    sources = [(source, f"inputs.{index}.path") for index, source in enumerate(config.inputs)]
    tables = _tables(planner, headers, sources, progress, save)
    return _planned(config, planner, headers, tables, headers.table())


def add(
    config: RunConfig,
    paths: Sequence[str],
    manifest: pa.Table,
    progress: Progress | None = None,
    known: pa.Table | None = None,
    save: Callable[[pa.Table], None] | None = None,
) -> Plan:
    """Add videos to a manifest without listing the inputs.

    Args:
        paths: files, folders, globs or lists of videos, as `inputs.path`; options for their store are those of the
            input they resemble most.
        manifest: of an earlier plan with the same settings.
        config, progress, known, save: as for `plan`.

    Raises:
        ConfigError: a path with nothing in it, or a manifest that was planned with other settings.
    """
    planner = Planner.of(config)
    hint = "run `luvc plan` without --add: it reads only headers that are new"
    if _FINGERPRINT not in (manifest.schema.metadata or {}):
        raise ConfigError("--add: the manifest does not say with which settings it was planned", hint)
    check_same_settings(config, manifest, hint)
    headers = Headers(known, config.sampling.mode == "key_frames")
    named = [InputSource(path=path) for path in paths]
    options = [{"storage": storage_of(config.inputs, one.path)} for one in named]
    sources = [(one.model_copy(update=storage), "--add") for one, storage in zip(named, options, strict=True)]
    tables = _tables(planner, headers, sources, progress, save)
    kept = _still_true(manifest, pa.concat_tables(tables))
    return _planned(config, planner, headers, [kept, *tables], headers.table(with_unseen=True))


def check_same_settings(config: RunConfig, manifest: pa.Table, hint: str) -> None:
    """Refuse a manifest that says it was planned with other settings.

    Raises:
        ConfigError: it was.
    """
    before = (manifest.schema.metadata or {}).get(_FINGERPRINT)
    if before is not None and before.decode() != Planner.of(config).fingerprint:
        raise ConfigError("the manifest was planned with other prompts, model or settings", hint)


def _tables(
    planner: Planner,
    headers: Headers,
    sources: Sequence[tuple[InputSource, str]],
    progress: Progress | None,
    save: Callable[[pa.Table], None] | None,
) -> list[pa.Table]:
    """Rows of all that the sources list, window by window: as Python objects they would take ten times the memory."""
    # All are listed before a header is read: a source with nothing in it is an error at once, not after hours.
    items: list[Item] = [item for source, key in sources for item in list_items(source, key)]
    tables: list[pa.Table] = []
    saved_at, looked_at = time.monotonic(), 0
    while looked_at < len(items):
        window = items[looked_at : looked_at + WINDOW_ITEMS]
        sound = [item for item in window if item.error is None]
        probes = headers.look(sound, progress and _after(looked_at, len(items), progress))
        rows = (row for item in window for row in planner.rows(item, item.error or probes[item.uri]))
        tables.append(rows_table(list(rows)))
        looked_at += len(window)
        if save and time.monotonic() - saved_at >= SAVE_EVERY_S:
            save(headers.table(with_unseen=True))
            saved_at = time.monotonic()
    return tables


def _after(looked_at: int, items: int, progress: Progress) -> Progress:
    """`progress` over all windows, for one of them."""
    return lambda seen, _: progress(min(looked_at + seen, items), items)


def _still_true(manifest: pa.Table, added: pa.Table) -> pa.Table:
    """Rows of a manifest without those that new rows of the same file replace: of another version, or an error."""
    row = pc.index_in(manifest["uri"], value_set=added["uri"].combine_chunks())
    same_version = pc.equal(manifest["etag"], pc.take(added["etag"], row.combine_chunks()))
    sound = pc.and_(pc.fill_null(same_version, False), pc.is_null(manifest["error_class"]))
    return manifest.filter(pc.or_(pc.is_null(row), sound))


def _planned(
    config: RunConfig, planner: Planner, headers: Headers, tables: Sequence[pa.Table], probes: pa.Table
) -> Plan:
    table = finish(tables, config.output.thumbnails)
    asked = sum(len(one) for one in tables)
    summary = summarise(table, asked - len(table), headers.read, headers.kept)
    fingerprint = {_FINGERPRINT: planner.fingerprint.encode()}
    return Plan(table.replace_schema_metadata({**(table.schema.metadata or {}), **fingerprint}), summary, probes)
