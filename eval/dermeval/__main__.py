"""``python -m dermeval``: what ``accelerate launch -m dermeval`` and ``torchrun -m dermeval`` start."""

import sys

from dermeval.cli import main

if __name__ == "__main__":
    sys.exit(main())
