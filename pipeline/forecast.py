"""Time and cost of a run before it starts, from the rates of an earlier one. Files only; knows nothing of Ray or torch.

There is no guess without a calibration: a model, a compression or a machine that was never run here is "unknown", and
`luvc run --calibrate N` is the way to know.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import RunConfig
from pipeline.report import history
from pipeline.report.build import stored_runs
from pipeline.report.cost import Prices
from pipeline.report.estimate import Estimate, estimate
from pipeline.report.files import Output
from pipeline.report.format import duration, plural, usd
from pipeline.report.work import amount


@dataclass(frozen=True)
class Forecast:
    """An estimate, or why there is none."""

    estimate: Estimate | None
    reason: str = ""

    def __str__(self) -> str:
        found = self.estimate
        if found is None:
            return f"estimate        unknown: {self.reason}"
        cost = "no prices set" if found.usd is None else usd(found.usd)
        if found.per_video_hour_usd is not None:
            cost += f" ({usd(found.per_video_hour_usd)} per hour of video)"
        basis = f"from {plural(found.based_on_units, 'unit')} of run {found.based_on}"
        return f"estimate        {duration(found.wall_s)}, {cost}; {basis}"


def forecast(config: RunConfig, units: pa.Table) -> Forecast:
    """What running `units` will take.

    Args:
        config: of the run; its output is where earlier runs are looked for.
        units: rows of the manifest that are to be done.
    """
    sound = units.filter(pc.is_null(units["error_class"]))
    if not len(sound):
        return Forecast(None, "nothing to do")
    stored = stored_runs(Output.at(config.output.path, config.output.storage))
    values = config.as_mapping()
    found = history.calibration(stored, config.name, values["model"], values["compression"], config.run.engine)
    if found is None:
        return Forecast(
            None,
            "no calibration, for no run of this name, model and compression has finished units here; "
            "`luvc run CONFIG --calibrate 50` runs some first",
        )
    prices = Prices(config.prices.gpu_hour_usd, config.prices.cpu_hour_usd)
    run_id, rates = found
    expected = estimate(amount(sound), rates, run_id, config.run.model_actors, prices)
    return Forecast(expected, "" if expected else f"run {run_id} measured no stage times")
