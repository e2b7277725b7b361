"""``python -m dermssl``: what ``accelerate launch -m dermssl`` and ``torchrun -m dermssl`` start."""

import sys

from dermssl.cli import main

if __name__ == "__main__":
    sys.exit(main())
