"""How many encoders and how many language models: the two pools of `run.topology: split`.

The slower pool sets the pace, so sizes are those that make the slower one as fast as it can be. What a unit takes in
each comes from the last run of the same name, model and compression, as the estimate does. Numbers that are given win.
Pure arithmetic, and one function that reads the output's earlier runs; knows nothing of Ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from luvc.errors import ConfigError
from pipeline.config import Encoders, RunConfig, RunSettings
from pipeline.report import history
from pipeline.report.build import stored_runs
from pipeline.report.files import Output


@dataclass(frozen=True)
class Rate:
    """What one unit took.

    Attributes:
        run_id: in this run.
        units: the mean of so many.
        encode_s, answer_s: seconds of an encoder; of a language model (prefill and decode).
    """

    run_id: str
    units: int
    encode_s: float
    answer_s: float


def pool_sizes(encode_s: float, answer_s: float, gpus: int) -> tuple[int, int]:
    """Encoders and language models on `gpus` GPUs, one each; at least one of both, even if there is only one GPU.

    Args:
        encode_s, answer_s: seconds a unit takes in an actor of each kind; only their ratio matters.
        gpus: to share out.
    """
    total = max(2, gpus)
    # On a tie the language model gets more: it holds the KV cache, so room to spare is of use there.
    encoders = min(range(1, total), key=lambda count: max(encode_s / count, answer_s / (total - count)))
    return encoders, total - encoders


def encoders_for(encode_s: float, answer_s: float, actors: int) -> int:
    """Encoders that keep `actors` language models busy."""
    return _partners(actors, encode_s, answer_s)


def answerers_for(encode_s: float, answer_s: float, encoders: int) -> int:
    """Language models that keep up with `encoders` encoders."""
    return _partners(encoders, answer_s, encode_s)


def _partners(given: int, partner_s: float, given_s: float) -> int:
    if given_s <= 0:
        return given
    return max(1, math.ceil(round(given * partner_s / given_s, 6)))


def sized(config: RunConfig, cluster_gpus: float) -> tuple[RunConfig, str]:
    """The configuration with numbers for every "auto", and why these, in a sentence; "" where nothing was to solve.

    Raises:
        ConfigError: more GPUs are asked for than leave one for the other pool.
    """
    run = config.run
    if run.topology == "fused" or "auto" not in (run.actors, run.encoders.actors):
        return config, ""
    rate, gpus = calibrated(config), int(cluster_gpus)
    encode_s, answer_s = (rate.encode_s, rate.answer_s) if rate else (1.0, 1.0)
    if run.actors != "auto":
        encoders, actors = _at_most(encoders_for(encode_s, answer_s, run.actors), run.actors, gpus), run.actors
    elif run.encoders.actors != "auto":
        encoders = run.encoders.actors
        actors = _at_most(answerers_for(encode_s, answer_s, encoders), encoders, gpus)
    else:
        encoders, actors = pool_sizes(encode_s, answer_s, gpus)
    own: dict[str, Any] = {"actors": actors}
    theirs: dict[str, Any] = {"actors": encoders}
    pools: list[tuple[RunSettings | Encoders, dict[str, Any]]] = [(run, own), (run.encoders, theirs)]
    for pool, solved in pools:
        if gpus == 1 and pool.gpus_per_actor == "auto":  # both pools on the only GPU
            solved["gpus_per_actor"] = 0.5
    own["encoders"] = run.encoders.model_copy(update=theirs)
    why = (
        f"a unit took {rate.encode_s:.3g} s in the encoder and {rate.answer_s:.3g} s in the language model "
        f"(mean of {rate.units} units of run {rate.run_id})"
        if rate
        else "as many of one as of the other, for no run of this name, model and compression has finished units here"
    )
    sentence = f"pools           {encoders} encoders and {actors} language models on {gpus} GPUs: {why}"
    return config.model_copy(update={"run": run.model_copy(update=own)}), sentence


def _at_most(wanted: int, given: int, gpus: int) -> int:
    """No more than the GPUs that the given pool leaves, one for each actor; without GPUs as many as wanted."""
    if gpus < 2:
        return wanted if gpus == 0 else 1
    if given >= gpus:
        raise ConfigError(
            f"run.topology: split: {given} actors of one kind leave none of {gpus} GPUs for the other",
            "fewer actors, or numbers and fractions of a GPU for both pools",
        )
    return min(wanted, gpus - given)


def calibrated(config: RunConfig) -> Rate | None:
    """What a unit took in the last run of this name, model and compression; None if there is none."""
    stored = stored_runs(Output.at(config.output.path, config.output.storage))
    values = config.as_mapping()
    found = history.calibration(stored, config.name, values["model"], values["compression"], config.run.engine)
    if found is None:
        return None
    run_id, rates = found
    units = rates.done.units
    if not units or rates.vision_s <= 0 or rates.text_s <= 0:
        return None
    return Rate(run_id, units, rates.vision_s / units, rates.text_s / units)
