"""What a benchmark ran on, and how its result is written down."""

import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "scipy", "scikit-learn", "faiss-cpu", "torch")


def describe() -> list[str]:
    """Processor, cores, threads in use, load and versions, as lines of Markdown."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.split(":")[1].strip()
            break
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return [
        f"- machine: {model}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}",
        f"- load average before the run (1, 5, 15 min): {load}",
        f"- Python {platform.python_version()}, {versions}",
    ]


class Cost(NamedTuple):
    """Seconds on the clock, and seconds of processor time of all threads, which other work on the machine spares."""

    wall: float
    cpu: float

    def plus(self, other: "Cost", times: float = 1.0) -> "Cost":
        """This cost and ``times`` another."""
        return Cost(self.wall + times * other.wall, self.cpu + times * other.cpu)


def timed(call: Callable[[], Any], repeats: int = 1) -> tuple[Cost, Any]:
    """The cheapest (by processor time) of ``repeats`` calls, and the last result."""
    costs = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        costs.append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
    return min(costs, key=lambda cost: cost.cpu), result


def processor_seconds() -> float:
    """Processor time of this process, and of all that it started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def seconds_on(device: str, work: Callable[[], Any], repeats: int) -> float:
    """Median wall-clock seconds of ``work()`` on a device, after one call that is not counted."""
    import torch

    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def command(package: str, *arguments: Any) -> None:
    """Run one command of ours and stop the bench if it fails."""
    subprocess.run([sys.executable, "-m", package, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


class Peak:
    """Highest resident memory above that at the start, in MiB."""

    mib = float("nan")


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the peak of resident memory inside the block (Linux; NaN elsewhere)."""
    peak, reset = Peak(), Path("/proc/self/clear_refs")
    if not reset.exists():
        yield peak
        return
    reset.write_text("5")  # forgets the peak so far
    start = memory_mib("VmRSS")
    yield peak
    peak.mib = memory_mib("VmHWM") - start


def memory_mib(key: str) -> float:
    """Memory of this process in MiB (Linux): ``VmRSS`` now, ``VmHWM`` its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) / 1024


def publish(text: str, out: Path | None) -> None:
    """Print a page, and write it to ``out`` if one is given."""
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")


def write(name: str, title: str, machine: list[str], rows: list[tuple[str, Cost]], remarks: list[str]) -> None:
    """Print and store a result: one row per side, with its ratios to the first row (ours)."""
    ours = rows[0][1]
    table = [
        f"| {label} | {cost.wall:.2f} | {cost.cpu:.2f} | {cost.wall / ours.wall:.2f} | {cost.cpu / ours.cpu:.2f} |"
        for label, cost in rows
    ]
    head = ["| | wall s | processor s | wall, times ours | processor, times ours |", "|---|---|---|---|---|"]
    page = "\n".join([f"# {title}", "", *machine, "", *head, *table, "", *remarks, ""])
    publish(page, RESULTS / f"{name}.md")
