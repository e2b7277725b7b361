"""bf16 where the device computes in it."""

import torch


def mixed_precision(wanted: str, device: torch.device) -> str:
    """Accelerate's name (``bf16`` or ``no``) for ``auto``, ``bf16`` or ``fp32`` on ``device``."""
    if wanted == "auto":
        return "bf16" if _computes_bf16(device) else "no"
    return "bf16" if wanted == "bf16" else "no"


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
