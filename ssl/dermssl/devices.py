"""Where computation runs: device, ranks, and bf16 where the device computes in it."""

import os

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env

from dermssl.errors import InputError


def start_accelerator(precision: str) -> Accelerator:
    """Accelerate's engine for ``precision`` ``auto``, ``bf16`` or ``fp32``.

    Raises:
        InputError: a launcher started several ranks, but each of them would run alone.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != launched:
        raise InputError(
            f"the launcher started {launched} ranks but each would run alone: on CPU, start with "
            "`ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m ...`"
        )
    bf16 = precision == "bf16" or (precision == "auto" and computes_bf16(state.device))
    return Accelerator(mixed_precision="bf16" if bf16 else "no")


def computes_bf16(device: torch.device) -> bool:
    """True where matrix products in bfloat16 are done in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
