"""Writes docs/metrics.md from the table of metrics: `python -m pipeline.run.meter_docs > docs/metrics.md`."""

from __future__ import annotations

import sys

from pipeline.run.meters import COMMON_TAGS, METERS, PREFIX, RAY_LABELS

_TAGS = " and ".join(f"`{tag}`" for tag in COMMON_TAGS)
_LABELS = ", ".join(f"`{label}`" for label in RAY_LABELS)

HEAD = f"""\
# Live metrics

<!-- Written by `python -m pipeline.run.meter_docs > docs/metrics.md`; a test keeps it up to date. -->

While a run goes on, every Ray node offers what it records at its metrics port as Prometheus text, the driver's counts
and each engine's state. They are for watching and for alerts. What happened stands in the event log and in the files of
the output ([output.md](output.md)), and a test scrapes a node after a run and compares the two.

This needs Ray with its metrics agent, `ray[default]`: the extra `pipeline` has it, and so have Ray's own images. How
busy GPUs are is asked of `nvidia-ml-py`, which the extra `metrics` adds; `make` and `infra/Dockerfile` install both.
Elsewhere, from a checkout: `pip install -c requirements/constraints.txt '.[pipeline,metrics]'`. A run is the same
without them: without the agent nothing is offered; without `nvidia-ml-py` there are no series of GPUs, and the alert
`LuvcGpuIdle` cannot fire.

## Reading them

Ray writes a file that tells Prometheus where all nodes are; on Kubernetes, KubeRay's pods name the port `metrics`:

```yaml
scrape_configs:
  - job_name: ray
    file_sd_configs:
      - files: [/tmp/ray/prom_metrics_service_discovery.json]
rule_files: [infra/monitoring/alerts.yaml]
```

By hand: `curl -s http://NODE:PORT/metrics | grep luvc`; `ray.nodes()` has the port as `MetricsExportPort`, and
`ray start --metrics-export-port=8080` sets it.

- [`infra/monitoring/alerts.yaml`](../infra/monitoring/alerts.yaml): a run that was aborted, stands still, vanished,
  fails a lot, answers too differently for its quality threshold or starves its GPUs, and a night in which nothing was
  done. `promtool test rules alerts_test.yaml` tests them.
- [`infra/monitoring/dashboard.json`](../infra/monitoring/dashboard.json): a Grafana dashboard to import.

## The metrics

Names have Ray's prefix `{PREFIX}` in Prometheus. Every series has the tags {_TAGS} (the configuration's `name`,
and the address of the node that records) and Ray's labels {_LABELS}.
Ray hands values over every ten seconds and at the end of a process. Counters stay until their node ends; a gauge is
gone twenty seconds after it was set for the last time, so a run whose gauges are gone has no driver any more. Ray
rounds the values of a histogram to the middle of their buckets: its count is exact, its sum is not.

| name | kind | unit | tags | from | meaning |
|---|---|---|---|---|---|
"""


def document() -> str:
    """The page."""
    rows = (
        f"| `{meter.name}` | {meter.kind} | {meter.unit} | {', '.join(f'`{tag}`' for tag in meter.tags)} "
        f"| {meter.source} | {meter.description} |\n"
        for meter in METERS
    )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(document())
