"""Runs `luvc bench` on a node of the cluster, with a GPU if there is one, and writes its JSON anywhere:

ray job submit --working-dir . -- python jobs/benchmark.py --out s3://my-bucket/bench.json
"""

import sys

from pipeline.cli import EXIT_OTHER, describe
from pipeline.run.remote_bench import LuvcError, main

try:
    sys.exit(main())
except LuvcError as error:
    print(describe(error), file=sys.stderr)
    sys.exit(EXIT_OTHER)
