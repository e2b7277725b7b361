"""`photometric.c`, built by this machine's C compiler at first use and called on batches that lie on a CPU.

Each process builds for its own processor, which takes a second, and keeps nothing on the disk. Where it cannot be
built, `dermssl.views.photometric` changes the views by PyTorch, up to rounding alike.
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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dermssl.views.draws import ORDERS, PHOTOMETRIC

FLAGS = (
    "-std=c11",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffinite-math-only",
    "-fno-signed-zeros",
    "-shared",
    "-fPIC",
)
"""Without contraction, which would save 5%, the bits depend on no processor or compiler but for the library's exp."""
TUNED = ("-march=native",)
"""Left out where the compiler does not know it."""

SECONDS_TO_BUILD = 60
VIEWS_PER_TASK = 16
"""Views that a thread takes at a time: those with blur take far longer, and lie side by side in a batch."""


class Built(NamedTuple):
    """The C function ``finish``, or None and the reason in a few words."""

    finish: Callable[..., int] | None
    reason: str = ""


@cache
def build() -> Built:
    """Build and load `photometric.c` by the compiler ``CC``, else ``cc``."""
    built = Built(None)
    for tuned in (TUNED, ()):
        try:
            return Built(_load(tuned))
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()
            built = Built(None, said[0] if said else f"{error.cmd[0]} ended with {error.returncode}")
        except (OSError, ValueError, AttributeError, subprocess.TimeoutExpired) as error:
            built = Built(None, str(error))
    return built


def _load(tuned: tuple[str, ...]) -> Callable[..., int]:
    source = str(resources.files("dermssl.views") / "photometric.c")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = str(Path(folder) / "photometric.so")
        command = [*shlex.split(os.environ.get("CC") or "cc"), *FLAGS, *tuned, "-o", library, source, "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS_TO_BUILD)
        return ctypes.CDLL(library).finish


def finish(pixels: Tensor, parameters: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: Tensor) -> None:
    """Change views into ``out``, on as many threads as PyTorch's.

    Args:
        pixels: ``(N, 3, S, S)`` uint8.
        parameters: ``(N, 10)`` float32, columns as `dermssl.views.draws.PHOTOMETRIC`.
        scale, shift: ``(3,)`` float32; a finished value of 0-1 becomes ``value * scale - shift``.
        out: ``(N, 3, S, S)`` float32 in channels_last layout.

    Raises:
        ValueError: shapes, types or layouts are not these.
        RuntimeError: there is no C function to call (`build`).
        MemoryError: there was no room for the values of one view.
    """
    change, reason = build()
    if change is None:
        raise RuntimeError(f"photometric.c could not be built: {reason}")
    count, size = len(pixels), pixels.shape[-1]
    shapes = (tuple(pixels.shape), tuple(out.shape), parameters.shape, scale.shape, shift.shape)
    if shapes != (*[(count, 3, size, size)] * 2, (count, len(PHOTOMETRIC)), (3,), (3,)):
        raise ValueError(f"views of other shapes than their parameters or their place: {shapes}")
    if (
        pixels.dtype != torch.uint8
        or out.dtype != torch.float32
        or any(array.dtype != np.float32 for array in (parameters, scale, shift))
    ):
        raise ValueError("pixels are uint8, all else is float32")
    if not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError("out is not in channels_last layout")
    pixels, parameters, orders = pixels.contiguous(), np.ascontiguousarray(parameters), ORDERS.astype(np.int32)

    def task(start: int) -> int:
        stop = min(start + VIEWS_PER_TASK, count)
        before, after = (ctypes.c_void_p(views[start:stop].data_ptr()) for views in (pixels, out))
        arrays = (parameters[start:stop], orders, scale, shift)
        numbers = (ctypes.c_void_p(array.ctypes.data) for array in arrays)
        return change(before, *numbers, ctypes.c_int64(stop - start), size, after)

    starts, threads = range(0, count, VIEWS_PER_TASK), torch.get_num_threads()
    lacking = any(_threads(threads).map(task, starts) if threads > 1 else map(task, starts))
    torch.autograd.graph.increment_version(out)
    if lacking:
        raise MemoryError("no memory left to change views")


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number)


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_threads.cache_clear)
