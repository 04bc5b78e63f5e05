"""Runs a configuration as a Ray job; the same as `luvc run`:

ray job submit --working-dir . -- python jobs/caption.py configs/nightly.yaml
"""

import sys

from pipeline.cli import main

sys.exit(main(["run", *sys.argv[1:]]))
