"""Device, ranks and precision of a computation, and settings of its memory."""

import ctypes
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from dermssl.errors import HealthStop, InputError, shortened

Result = TypeVar("Result")
PATIENCE = timedelta(hours=1)
"""How long ranks wait for each other. Rank 0 scores the encoder alone, which may take longer than NCCL's 10 minutes."""


def join_ranks(cpu: bool = False, **group: Any) -> PartialState:
    """Join the other ranks that the launcher started. The state has this process's rank and device.

    ``cpu``: use no GPU. ``group`` are arguments of `torch.distributed.init_process_group`, such as ``timeout``.
    Raises InputError: the launcher started several processes, but each would run alone.
    """
    # Accelerator reads this variable, PartialState does not.
    state = PartialState(cpu=cpu or parse_flag_from_env("ACCELERATE_USE_CPU"), **group)
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if state.num_processes != started:
        raise InputError(
            f"{started} processes were started but {state.num_processes} joined: "
            "without a GPU set ACCELERATE_USE_CPU=true before torchrun"
        )
    return state


def on_first_rank(accelerator: Accelerator, work: Callable[[], Result]) -> Result | None:
    """Run ``work`` on rank 0 and return its result (None elsewhere). Its InputError or HealthStop ends all ranks."""
    stop: InputError | HealthStop | None = None
    result = None
    if accelerator.is_main_process:
        try:
            result = work()
        except (InputError, HealthStop) as error:
            stop = InputError(str(error)) if isinstance(error, InputError) else error  # now all ranks meet it
    (told,) = broadcast_object_list([stop])
    if told is not None:
        raise told
    return result


def choose_precision(asked: str, device: torch.device) -> str:
    """``bf16`` or ``fp32``; ``auto`` is bf16 if the device computes in it. Raises InputError: bf16 is not available."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        abilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))
    if asked == "bf16" and not native:
        raise InputError(f"precision bf16: the device ({device.type}) does not compute in bf16: use fp32 or auto")
    return "bf16" if native and asked != "fp32" else "fp32"


def require_compiler(device: torch.device) -> None:
    """Raise InputError unless torch.compile works, which takes some seconds to find out."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    # A missing, old or broken compiler may raise any exception.
    except Exception as error:
        raise InputError(
            f"training.compile: torch.compile does not work on this machine ({shortened(error, 200)}): install a C++ "
            "compiler and Python's headers, or leave it out"
        ) from None


TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""glibc's constants for mallopt(3)."""


def keep_memory() -> None:
    """Let this process, and the processes that it starts, keep freed memory for the next step, in huge pages.

    By default glibc returns large blocks to the kernel, which clears them page by page at every step. Now memory is
    returned only when the process ends. Other C libraries are left as they are. Call this before the first tensor:
    PyTorch reads the setting of huge pages only once.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option:
        set_option(MMAP_MAX, 0)
        set_option(TRIM_THRESHOLD, -1)


def start_accelerator(precision: str) -> Accelerator:
    """An Accelerator for ``precision`` ``auto``, ``bf16`` or ``fp32``, see `join_ranks` and `choose_precision`.

    Raises InputError: Accelerate's config asks to divide the network among the ranks.
    """
    for way in ("DEEPSPEED", "FSDP", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{way}"):
            raise InputError(
                f"the config of Accelerate asks for {way}, but each rank needs the whole network: "
                "give `accelerate launch` another --config_file, such as configs/accelerate_one_node.yaml"
            )
    if torch.backends.mps.is_available():  # Apple's GPU lacks float64, which Sinkhorn's targets need
        os.environ["ACCELERATE_USE_CPU"] = "true"
    device = join_ranks(timeout=PATIENCE).device
    if device.type == "cpu":
        keep_memory()
    return accelerator_in(precision, device)


def accelerator_in(precision: str, device: torch.device) -> Accelerator:
    """An Accelerator for ``precision``, see `choose_precision`. It ends those that this process made before."""
    chosen = choose_precision(precision, device)
    AcceleratorState._reset_state()  # it would refuse another precision than that of an earlier run in a notebook
    return Accelerator(mixed_precision="bf16" if chosen == "bf16" else "no")
