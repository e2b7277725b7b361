"""What one GPU, 8 and 64 can do, and what limits them: computed from measured parts, not measured.

    python scripts/bench/scaling.py --config configs/dino_vits16.yaml [--peak 989 --share 0.35 --cores 10]

Counted here: arithmetic of one image (PyTorch's FLOP counter) and bytes of the gradients. Measured elsewhere and
given: the CPU time of an image's crops (scripts/bench/results/views.md: decode + crop). Assumed: the GPU's peak, the
share of it that training reaches, and the links. Prints Markdown for docs/pretrain.md.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from dermssl.backbone.build import build as build_backbone
from dermssl.methods.registry import METHODS
from dermssl.views.recipe import ViewOptions

GRADIENT_BYTES = 4
"""Gradients are averaged in float32."""


class Parts(NamedTuple):
    """Arithmetic of one image (forward and backward of the student, forward of the teacher), and gradient bytes."""

    flops: float
    bytes: float


def count(config: Path) -> Parts:
    """The parts of the recipe in ``config``."""
    recipe = yaml.safe_load(config.read_text())
    views, method = ViewOptions(**recipe.get("views", {})), recipe.get("method", "dino")
    size, local, locals_ = views.global_size, views.local_size, views.local_count
    name = recipe.get("model", {}).get("backbone", "vit_small_patch16_224")
    options = METHODS[method](**recipe.get(method, {}))
    model = METHODS[method].load()(lambda drop: build_backbone(name, size, drop), 0.0, options)
    groups = [torch.zeros(2, 2, 3, size, size)] + ([torch.zeros(locals_, 2, 3, local, local)] if locals_ else [])
    with FlopCounterMode(display=False) as counter:
        loss, _ = model(groups, {name: float(values[0]) for name, values in model.schedules(2, 1).items()})
        loss.backward()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Parts(counter.get_total_flops() / 2, trained * GRADIENT_BYTES)


def row(gpus: int, batch: int, parts: Parts, options: argparse.Namespace) -> list[str]:
    """One line: the rates that arithmetic, CPU cores and links allow, and which is the least."""
    on_gpu = gpus * options.peak * 1e12 * options.share / parts.flops
    on_cpu = gpus * (options.cores - 1) * 1000 / options.crop_ms
    link = options.inside if gpus <= options.gpus_per_node else options.between
    exchange = 2 * (gpus - 1) / gpus * parts.bytes / (link * 1e9)
    # Gradients are exchanged while the backward pass still runs, so the longer of the two decides.
    compute = batch / min(on_gpu, on_cpu)
    rate = batch / max(compute, exchange)
    limit = "gradient exchange" if exchange > compute else "CPU crops" if on_cpu < on_gpu else "arithmetic"
    numbers = [f"{on_gpu:,.0f}", f"{on_cpu:,.0f}", f"{1000 * compute:.1f}", f"{1000 * exchange:.1f}", f"{rate:,.0f}"]
    return [str(gpus), f"{batch:,}", *numbers, limit]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--peak", type=float, default=989, help="dense bf16 TFLOP/s of a GPU (H100, H200)")
    parser.add_argument("--share", type=float, default=0.35, help="share of the peak that training reaches (assumed)")
    parser.add_argument("--cores", type=int, default=10, help="CPU cores per GPU: all but one decode and crop")
    parser.add_argument("--crop-ms", type=float, default=2.42, help="CPU ms per image: decode + crops, stored at 384")
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--inside", type=float, default=450, help="GB/s of a GPU's link inside a node")
    parser.add_argument("--between", type=float, default=50, help="GB/s of a GPU's link between nodes")
    options = parser.parse_args()
    parts = count(options.config)
    print(f"{options.config}: {parts.flops / 1e9:.0f} GFLOP per image, {parts.bytes / 1e6:.0f} MB of gradients\n")
    head = ["GPUs", "global batch", "arithmetic, images/s", "CPU crops, images/s", "step, ms", "exchange, ms"]
    head += ["images/s", "limit"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for gpus, batch in ((1, 256), (8, 1024), (8, 2048), (64, 1024), (64, 8192)):
        print("| " + " | ".join(row(gpus, batch, parts, options)) + " |")


if __name__ == "__main__":
    main()
