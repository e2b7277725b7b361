"""`photometric.c`, built by this machine's C compiler at first use and called on batches that lie on a CPU.

Each process builds for its own processor, which takes a second, and keeps nothing on the disk. Where there is no
compiler, `build` returns None and `dermssl.views.photometric` changes the views by PyTorch, up to rounding alike.
"""

import ctypes
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dermssl.views.draws import ORDERS

FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only", "-fno-signed-zeros")
TUNED = ("-march=native",)
"""Left out where the compiler does not know it."""

VIEWS_PER_TASK = 16
"""Views that a thread takes at a time: those with blur take far longer, and lie side by side in a batch."""


@cache
def build() -> Callable[..., int] | None:
    """The C function ``finish``, or None where no compiler (``CC``, else ``cc``) can build it."""
    source = str(resources.files("dermssl.views") / "photometric.c")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "photometric.so"
        for tuned in (TUNED, ()):
            command = [*compiler, *FLAGS, *tuned, "-shared", "-fPIC", "-o", str(library), source, "-lm"]
            try:
                subprocess.run(command, check=True, capture_output=True)
                return ctypes.CDLL(str(library)).finish
            except (OSError, subprocess.CalledProcessError):
                continue
    return None


def finish(pixels: Tensor, parameters: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: Tensor) -> None:
    """Change views into ``out``, on as many threads as PyTorch's.

    Args:
        pixels: ``(N, 3, S, S)`` uint8.
        parameters: ``(N, 9)`` float32, columns as `dermssl.views.draws.PHOTOMETRIC`.
        scale, shift: ``(3,)`` float32; a finished value of 0-1 becomes ``value * scale - shift``.
        out: ``(N, 3, S, S)`` float32 in channels_last layout.

    Raises:
        MemoryError: there was no room for the values of one view.
    """
    change = build()
    assert change is not None and out.is_contiguous(memory_format=torch.channels_last)
    pixels, size = pixels.contiguous(), pixels.shape[-1]
    parameters, orders = np.ascontiguousarray(parameters), ORDERS.astype(np.int32)

    def task(start: int) -> int:
        stop = min(start + VIEWS_PER_TASK, len(pixels))
        arrays = (parameters[start:stop], orders, scale, shift)
        before, after = (ctypes.c_void_p(views[start:stop].data_ptr()) for views in (pixels, out))
        numbers = (ctypes.c_void_p(array.ctypes.data) for array in arrays)
        return change(before, *numbers, ctypes.c_int64(stop - start), size, after)

    starts = range(0, len(pixels), VIEWS_PER_TASK)
    threads = torch.get_num_threads()
    if any(_threads(threads).map(task, starts) if threads > 1 else map(task, starts)):
        raise MemoryError("no memory left to change views")


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number)
