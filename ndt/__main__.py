"""``python -m ndt`` is ``ndt``."""

import sys

from ndt.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
