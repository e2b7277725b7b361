"""Where computation runs: device, ranks, bf16 where the device computes in it, and memory kept between steps."""

import ctypes
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from dermssl.errors import HealthStop, InputError

Result = TypeVar("Result")


def join_ranks(cpu: bool = False, **group: Any) -> PartialState:
    """This process's rank and device, joined with the other ranks that the launcher started.

    ``cpu``: use no GPU. ``group`` goes to `torch.distributed.init_process_group`, such as a ``timeout``.
    Raises InputError: the launcher started several processes but they would each run alone.
    """
    # Accelerate's own entry object reads this variable; its light state does not.
    state = PartialState(cpu=cpu or parse_flag_from_env("ACCELERATE_USE_CPU"), **group)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != started:
        raise InputError(
            f"{started} processes were started but {state.num_processes} joined: "
            "without a GPU set ACCELERATE_USE_CPU=true before torchrun"
        )
    return state


def on_first_rank(accelerator: Accelerator, work: Callable[[], Result]) -> Result | None:
    """Run ``work`` on rank 0 while the others wait; where it ends the run, it ends it on all of them alike.

    Returns what ``work`` gave on rank 0, None on the others. An InputError or HealthStop of ``work`` is raised on all.
    """
    stop: InputError | HealthStop | None = None
    result = None
    if accelerator.is_main_process:
        try:
            result = work()
        except (InputError, HealthStop) as error:
            stop = error
    (told,) = broadcast_object_list([stop])
    if told is not None:
        raise told
    return result


def choose_precision(asked: str, device: torch.device) -> str:
    """``bf16`` or ``fp32``; ``auto`` takes bf16 where the device computes in it, and asking elsewhere is refused."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        abilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))
    if asked == "bf16" and not native:
        raise InputError(f"precision bf16: the device ({device.type}) does not compute in bf16: use fp32 or auto")
    return "bf16" if native and asked != "fp32" else "fp32"


def require_compiler(device: torch.device) -> None:
    """Compile and run a one-line function by torch.compile; takes some seconds.

    Raises InputError: this machine cannot (a CPU needs a C++ compiler and Python's headers, a GPU Triton).
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    # Whatever a compiler that is absent, old or broken provokes means the same to the user.
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
        raise InputError(
            f"training.compile: torch.compile does not work on this machine ({reason}): install a C++ compiler and "
            "Python's headers, or leave it out"
        ) from None


TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""glibc's numbers of the settings (mallopt(3))."""


def keep_memory() -> None:
    """Let this process, and those that it starts, keep what a step frees for the next one, in huge pages.

    By default glibc hands large blocks back, and the kernel clears them page by page at every step. Kept memory is not
    returned before the process ends. C libraries without these settings stay as they are. Call it before the first
    tensor: PyTorch asks but once whether it may have huge pages.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option:
        set_option(MMAP_MAX, 0)
        set_option(TRIM_THRESHOLD, -1)


def start_accelerator(precision: str) -> Accelerator:
    """Accelerate's engine for ``precision`` ``auto``, ``bf16`` or ``fp32``; see `join_ranks` and `choose_precision`."""
    device = join_ranks().device
    if device.type == "cpu":
        keep_memory()
    chosen = choose_precision(precision, device)
    return Accelerator(mixed_precision="bf16" if chosen == "bf16" else "no")
