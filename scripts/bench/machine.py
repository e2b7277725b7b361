"""What a benchmark ran on, and how its result is written down."""

import importlib.metadata
import os
import platform
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


class Peak:
    """Highest resident memory above that at the start, in MiB."""

    mib = float("nan")


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the peak of resident memory inside the block (Linux; NaN elsewhere)."""
    peak, reset, status = Peak(), Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not status.exists():
        yield peak
        return
    reset.write_text("5")  # forgets the peak so far
    start = _status_mib(status, "VmRSS")
    yield peak
    peak.mib = _status_mib(status, "VmHWM") - start


def _status_mib(status: Path, key: str) -> float:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key)) / 1024


def write(name: str, title: str, machine: list[str], rows: list[tuple[str, Cost]], remarks: list[str]) -> None:
    """Print and store a result: one row per side, with its ratios to the first row (ours)."""
    ours = rows[0][1]
    table = [
        f"| {label} | {cost.wall:.2f} | {cost.cpu:.2f} | {cost.wall / ours.wall:.2f} | {cost.cpu / ours.cpu:.2f} |"
        for label, cost in rows
    ]
    head = ["| | wall s | processor s | wall, times ours | processor, times ours |", "|---|---|---|---|---|"]
    page = "\n".join([f"# {title}", "", *machine, "", *head, *table, "", *remarks, ""])
    print(page)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")
