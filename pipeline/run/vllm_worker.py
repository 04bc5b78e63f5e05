"""What runs inside vLLM's worker process. vLLM mixes the class into its own worker (`worker_extension_cls`)."""

from __future__ import annotations

from typing import Any


class PruningOnCpu:
    """Makes video pruning (`video_pruning_rate`) work on CPUs; does nothing on GPUs."""

    model_runner: Any

    def tell_runner_that_it_prunes(self) -> None:
        """Note in the model runner that the model prunes videos.

        vLLM 0.32's runner for CPUs has a `load_model` of its own, which leaves out what the one for GPUs does at its
        end. Without the note it takes the positions that a pruning model appends to each visual token (four
        channels) for part of the embedding, and the first video fails.
        """
        if getattr(self.model_runner, "is_multimodal_pruning_enabled", True) is False:
            self.model_runner.is_multimodal_pruning_enabled = True
