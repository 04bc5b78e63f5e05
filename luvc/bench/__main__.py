"""`python -m luvc.bench`."""

import sys

from luvc.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
