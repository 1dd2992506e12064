"""`python -m bnutils`: the shell of `bnutils.cli`."""

import sys

from bnutils.cli import main

if __name__ == "__main__":
    sys.exit(main())
