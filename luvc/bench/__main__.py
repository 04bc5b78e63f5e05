"""`python -m luvc.bench`."""

import sys

from luvc.bench.command import main

sys.exit(main())
