"""What a run has to do: the plan, made or read, what of it is pending, and the sample that is compared.

Reads the output folder and writes the plan into it; knows nothing of Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from luvc.errors import ConfigError
from pipeline.config import RunConfig
from pipeline.run.folder import Folder
from pipeline.run.lease import Lease
from pipeline.run.ledger import Ledger, Retry, read_done, read_failed, reckon
from pipeline.run.outcome import UNIT
from pipeline.run.quality import pick

if TYPE_CHECKING:
    from pipeline.plan.planning import Plan


def read_ledger(folder: Folder, planned: pa.Array | pa.ChunkedArray) -> Ledger:
    """Where every planned unit stands, from the output's files."""
    done = read_done(lambda: folder.parts("results"), folder.open)
    failed = read_failed(lambda: folder.parts("failures"), folder.open)
    return reckon(planned, done, failed)


def manifest_of(
    config: RunConfig, folder: Folder, replan: bool, add: Sequence[str], lease: Lease, say: Callable[[str], None]
) -> pa.Table:
    """The manifest: made anew on top of the one before and written, or the one that is there."""
    from pipeline.plan.planning import check_same_settings

    kept = None if replan or add else folder.read_manifest()
    if kept is not None:
        check_same_settings(config, kept, "run without --no-plan: headers that were read are not read again")
        return kept
    tell = every(config.run.heartbeat_s, lambda seen, total: say(f"{seen} of {total} videos looked at"))

    def progress(seen: int, total: int) -> None:
        lease.raise_if_lost()
        tell(seen, total)

    planned = make_plan(config, folder, add, progress, folder.write_probes)
    say(str(planned.summary))
    lease.check()
    folder.write_probes(planned.probes)
    folder.write_manifest(planned.table)
    return planned.table


def make_plan(
    config: RunConfig,
    folder: Folder,
    add: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    save: Callable[[pa.Table], None] | None = None,
) -> Plan:
    """Plan on top of what the folder knows from the plan before; or add videos to that. Writes only through `save`.

    Raises:
        ConfigError: nothing to plan, or nothing to add to.
    """
    from pipeline.plan import planning

    known = folder.read_probes()
    if not add:
        return planning.plan(config, progress, known, save)
    manifest = folder.read_manifest()
    if manifest is None:
        raise ConfigError(f"--add: {config.output.path} has no manifest to add to", "run `luvc plan` first")
    return planning.add(config, add, manifest, progress, known, save)


def every(
    seconds: float, tell: Callable[[int, int], None], clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    """`tell`, but not more often than every `seconds`, nor before that."""
    last = clock()

    def maybe(seen: int, total: int) -> None:
        nonlocal last
        if clock() - last >= seconds:
            last = clock()
            tell(seen, total)

    return maybe


def pending_units(manifest: pa.Table, ledger: Ledger, retry_failed: Retry) -> pa.Table:
    """Units to do, `[UNIT]`."""
    return manifest.append_column("tried", ledger.attempts).filter(ledger.work(retry_failed)).select(UNIT.names)


def sample_of(config: RunConfig, planned: pa.ChunkedArray, units: pa.Table) -> tuple[str, ...]:
    """Units of the quality slice; a run that goes on for one that did not end goes on with its sample.

    Args:
        planned: ids of the whole plan.
        units: what this run is to do.
    """
    from pipeline import report

    if not config.slice_units:
        return ()
    sound = units["unit_id"].filter(pc.is_null(units["error_class"]))
    last = report.newest_run(config.output.path, config.output.storage)
    begun = last.sample if last is not None and not last.complete else ()
    return pick(sound, config.slice_units, begun, planned)


def spread(units: pa.Table, count: int) -> pa.Table:
    """`count` rows, evenly spread."""
    return units.take(pa.array(range(0, units.num_rows, units.num_rows // count)).slice(0, count))
