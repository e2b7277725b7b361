import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_runs import dataset, one_thread, pretrain  # noqa: F401
