"""Answers questions about videos as a Ray job; the same as `luvc run`, with a list of questions as the input:

ray job submit --working-dir . -- python jobs/answer.py configs/answer.yaml s3://my-videos/questions.jsonl

Each row of the list (.jsonl, .csv, .parquet) names a video and asks something: `uri`, `prompt`, and optionally `id`,
`prompt_id`, `start_s`, `end_s`. A row without a prompt gets those of the configuration. Without a list, the
configuration's own prompts are asked about its own inputs.
"""

import sys

from pipeline.cli import main

arguments = sys.argv[1:]
if len(arguments) > 1 and not arguments[1].startswith("-"):
    arguments[1:2] = ["--set", f"inputs.0.path={arguments[1]}"]  # the options of its store stay
sys.exit(main(["run", *arguments]))
