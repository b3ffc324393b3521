"""`python -m dtl_lib …`, the same as `dtl …`."""

import sys

from .cli.main import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
