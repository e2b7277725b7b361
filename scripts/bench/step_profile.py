"""Where the time of a pretraining step goes, and what limits it: one rank, on whatever device `dermssl pretrain` takes.

    python scripts/bench/step_profile.py --config configs/dino_resnet18_small.yaml --data data/ham10000
        [--device cuda] [--waits 8 16] [--repeats 5] [--report page.md]
        [--model.backbone vit_small_patch16_224 --training.batch 64 ...]

Further options go to `dermssl pretrain`. Measured one after the other, each the median of the repeats:

- the CPU work of a batch's crops on one core;
- moving and normalising it;
- forward, backward and update on views that already lie on the device (the ceiling: no data work at all);
- a large square matrix product in the training precision. PyTorch counts the step's arithmetic, and the page says which
  share of the product's rate the step reaches.

Figures are wall-clock, so let nothing else run.
"""

import argparse
import functools
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe, publish, seconds_on
from torch.utils.flop_counter import FlopCounterMode

from dermssl.backbone.build import IMAGENET
from dermssl.data_workers import read_batches
from dermssl.parser import parse
from dermssl.training.optimizer import clip_each
from dermssl.training.options import PretrainOptions
from dermssl.training.pretrain import one_step
from dermssl.training.progress import hardware
from dermssl.training.setup import Run, set_up
from dermssl.training.watching.tracking import Waiting
from dermssl.views.loader import ViewDataset, make_loader, to_views
from dermssl.views.sampler import RankBatches

SIDES = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices whose product tells the device's rate."""


def one_core(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of ``work()`` with one thread, as data workers run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = seconds_on("cpu", work, repeats)
    torch.set_num_threads(threads)
    return taken


def product_rate(run: Run, repeats: int) -> float:
    """FLOP/s of a large matrix product in the training precision."""
    device = run.accelerator.device
    side = SIDES.get(device.type, 2048)
    dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds_on(device.type, lambda: left @ right, repeats)


def measure(run: Run, repeats: int) -> dict[str, float]:
    """Seconds per batch of each part, ``images`` of a batch, ``flops`` of a batch, and the ``product`` rate."""
    options, device = run.options, run.accelerator.device
    dataset = ViewDataset(run.pool, options.views, options.training.seed)
    items = next(iter(RankBatches(run.sampler, 0, 1, accumulation=options.training.accumulation)))
    crops = dataset.__getitems__(items)
    views = to_views(crops, device, *IMAGENET)
    at, model = run.at(0), run.accelerator.prepare(run.method)

    def backward() -> None:
        run.accelerator.backward(model(views, at)[0])

    def update() -> None:
        clip_each(run.optimizer, options.optim.clip)
        run.optimizer.step()
        run.method.after_update(at)

    taken = functools.partial(seconds_on, device.type, repeats=repeats)
    parts = {
        "images": len(items),
        "crops": one_core(lambda: dataset.__getitems__(items), repeats),
        "normalise": taken(lambda: to_views(crops, device, *IMAGENET)),
        "forward": taken(lambda: model(views, at)),
        "backward": taken(backward),
        "update": taken(update),
        "step": taken(lambda: one_step(run, model, itertools.repeat(views))),
        "product": product_rate(run, repeats),
    }
    # Last, since a first pass that is counted would keep torch.compile from compiling.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        backward()
    return parts | {"flops": counter.get_total_flops()}


def waiting(run: Run, workers: int, steps: int) -> float:
    """Share of the time that training waits for its views, with so many data workers."""
    accumulation, device = run.options.training.accumulation, run.accelerator.device
    batches = RankBatches(run.sampler, 0, min(steps, run.steps), accumulation=accumulation)
    dataset = ViewDataset(run.pool, run.options.views, run.options.training.seed)
    loader = make_loader(dataset, batches, workers, pin=device.type == "cuda")
    counted = Waiting(read_batches(loader))
    views = (to_views(crops, device, *IMAGENET) for crops in counted)
    for step in range(len(batches) // accumulation):
        one_step(run, run.method, views)
        if step == 0:
            counted.read()  # the workers' start does not count
    return counted.read()[1]


def table(run: Run, parts: dict[str, float]) -> list[str]:
    """The lines of the page."""
    images, accumulation = parts["images"], run.options.training.accumulation
    step = parts["step"] / accumulation
    rows = [
        ("views, on one core", parts["crops"]),
        ("move to the device and normalise", parts["normalise"]),
        ("forward and loss", parts["forward"]),
        ("backward", parts["backward"] - parts["forward"]),
        ("clipping, optimizer, teacher; once per step", parts["update"] / accumulation),
    ]
    total, rate = parts["normalise"] + step, parts["flops"] / step
    return [
        "| part | ms per image |",
        "|---|---|",
        *[f"| {name} | {1000 * value / images:.3f} |" for name, value in rows],
        "",
        f"- ceiling, on views that already lie on the device: {images / step:,.1f} images/s",
        f"- with moving and normalising: {images / total:,.1f} images/s; {parts['crops'] / total:.2f} cores of data "
        "workers keep up with that",
        f"- {parts['flops'] / images / 1e9:.2f} GFLOP an image; the step runs at {rate / 1e12:.3f} TFLOP/s, "
        f"{rate / parts['product']:.0%} of the {parts['product'] / 1e12:.3f} of a large {run.precision} product",
    ]


def main() -> None:
    """Measure and print (or write) the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: what `dermssl pretrain` takes")
    parser.add_argument("--waits", type=int, nargs="*", default=[], help="data workers with which waiting is measured")
    parser.add_argument("--wait-steps", type=int, default=20)
    parser.add_argument("--report", type=Path, help="also write the page here")
    bench, given = parser.parse_known_args()
    if bench.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if bench.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: there is no GPU here")
    machine = describe()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [*given, "--out", str(Path(scratch) / "run")]
        options, _ = parse("step_profile", PretrainOptions, arguments)
        run = set_up(options)
        lines = table(run, measure(run, bench.repeats))
        for workers in bench.waits:
            share = waiting(run, workers, bench.wait_steps)
            lines.append(f"- with {workers} data workers, training waits for views {share:.0%} of the time")
    about = [
        f"`python scripts/bench/step_profile.py {' '.join(given)}`",
        "",
        *machine,
        f"- {hardware(run.accelerator.device)}, {run.precision}",
    ]
    publish("\n".join([*about, "", *lines]) + "\n", bench.report)


if __name__ == "__main__":
    main()
