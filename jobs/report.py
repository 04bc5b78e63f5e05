"""Builds a report as a Ray job, where the output can be reached; the same as `luvc report`:

ray job submit --working-dir . -- python jobs/report.py configs/nightly.yaml
"""

import sys

from pipeline.cli import main

sys.exit(main(["report", *sys.argv[1:]]))
