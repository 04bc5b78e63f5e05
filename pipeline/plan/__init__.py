"""Plans a run: lists inputs, probes headers, cuts clips, samples timestamps, sizes and names units.

Knows fsspec, PyAV and `luvc.scheduling`; nothing of torch or Ray. All fan-out happens here, none in the run.
"""
