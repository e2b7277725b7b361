"""``python -m dermssl``, which ``accelerate launch -m dermssl`` and ``torchrun -m dermssl`` start too."""

import sys

from dermssl.cli import main

if __name__ == "__main__":
    sys.exit(main())
