"""The batch job: plan -> run -> report over a corpus of videos. Ray is imported by `pipeline.run` only."""
