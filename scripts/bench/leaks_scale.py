"""Audits growing parts of a data set and tells what each part of the audit costs: processor time, memory, pairs.

    python scripts/bench/leaks_stand_in.py DATA [DATA ...] --out RAW --images 100000
    dermssl prepare --source folder --root RAW --out standin --short-side 224
    python scripts/bench/leaks_scale.py standin --copies RAW/copies.csv --images 2500 5000 10000 20000 --work DIR
    python scripts/bench/leaks_scale.py standin --work DIR --plot results/leaks_scale.svg

Every image is its own record, and all are audited as those of more than 20,000 images are. Each size runs the whole
command `dermeval leaks` in a process of its own. Processor time is that of all processes of the command. Set
OMP_NUM_THREADS to 1 on a busy machine, since threads that wait for each other use it. Memory is the peak of the sum
over the processes, once without the pages of files, which the system may drop, once with them. DIR keeps a line per
size in scale.jsonl. Results are in results/leaks_scale.md.
"""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

PARTS = {
    "describe_images": "describe",
    "nominate": "nominate",
    "compare_pairs": "compare",
    "compare_colours": "compare",
}


def used() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


class Memory(threading.Thread):
    """Watches the memory of this process and of its children; ``peaks`` holds anonymous and all bytes by part."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.part, self.peaks = "other", dict[str, list[float]]()

    def run(self) -> None:
        """Look four times a second."""
        while True:
            now = [0.0, 0.0]
            for process in [psutil.Process(), *psutil.Process().children()]:
                try:
                    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                except OSError:
                    continue
                found = {line.split(":")[0]: float(line.split()[1]) / 2**20 for line in lines if line.startswith("Rss")}
                now[0] += found.get("RssAnon", 0) + found.get("RssShmem", 0)
                now[1] += sum(found.values())
            peak = self.peaks.setdefault(self.part, [0.0, 0.0])
            peak[:] = [max(pair) for pair in zip(peak, now, strict=True)]
            time.sleep(0.25)


def audit(data: str, count: int, copies: Path | None, work: Path, workers: int) -> dict[str, Any]:
    """Audit the first ``count`` images and return what it cost and found."""
    from dermeval.leaks import find, leaks
    from dermeval.leaks.options import LeaksOptions
    from dermeval.leaks.records import open_audited

    cost, memory = dict.fromkeys(["describe", "nominate", "compare", "other"], 0.0), Memory()
    memory.start()

    def timed(name: str, part: str) -> None:
        function = getattr(find, name)

        def run(*given: Any, **named: Any) -> Any:
            start, memory.part = used(), part
            print(f"{time.strftime('%H:%M:%S')} {part} begins at {start:.0f} s", flush=True)
            found = function(*given, **named)
            cost[part] += used() - start
            memory.part = "other"
            print(f"{time.strftime('%H:%M:%S')} {part} ends at {used():.0f} s", flush=True)
            return found

        setattr(find, name, run)

    for name, part in PARTS.items():
        timed(name, part)
    find.MANY_IMAGES = 0
    images = open_audited([data], every_image=True)
    audited = images._replace(
        frame=images.frame.head(count), pictures=images.pictures[:count], groups=images.groups[:count]
    )
    leaks.open_audited = lambda *_: audited
    out = work / f"leaks-{count}"
    options = LeaksOptions(out=str(out), folders=[data], every_image=True, workers=workers, ranked=2000, overwrite=True)
    start, wall = used(), time.perf_counter()
    report = leaks.leaks(options)
    assert report is not None, "rank 0 reports"
    found = report.data
    cost["other"] = used() - start - sum(cost.values())
    result = {"images": count, "seconds": cost, "wall": time.perf_counter() - wall, "memory_gb": memory.peaks}
    result |= {"compared": found["certainty"]["compared"], "confirmed": found["pairs"], "sources": found["sources"]}
    if copies is not None:
        result["copies"] = of_copies(out, copies, count)
    return result


def of_copies(out: Path, copies: Path, count: int) -> dict[str, Any]:
    """How many of the planted copies are confirmed, by kind, and how many confirmed pairs are no copies."""
    import pandas as pd

    pairs = pd.read_parquet(out / "pairs.parquet")
    ends = pairs[["image_id_a", "image_id_b"]].map(lambda name: name.rsplit("/", 1)[1])
    confirmed = set(map(frozenset, ends.to_numpy().tolist()))
    table = pd.read_csv(copies, dtype={"original": str, "copy": str})
    part = table[table["copy"].astype(int) < count]
    found = part[["original", "copy"]].apply(frozenset, axis=1).isin(confirmed)
    kinds = found.groupby(part["kind"], sort=False).agg(["sum", "size"]).apply(list, axis=1).to_dict()
    return {
        "planted": len(part),
        "found": int(found.sum()),
        "kinds": kinds,
        "others": len(confirmed) - int(found.sum()),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown of all sizes."""
    head = ["images", "describe", "nominate", "compare", "rest", "processor time", "ms an image", "pairs an image"]
    lines = ["| " + " | ".join([*head, "memory, with pages of files", "copies found", "other pairs"]) + " |"]
    lines.append("|---" * (len(head) + 3) + "|")
    for one in results:
        cost, count = one["seconds"], one["images"]
        peak = [max(part[kind] for part in one["memory_gb"].values()) for kind in (0, 1)]
        cells = [f"{count:,}", *(f"{seconds:,.0f} s" for seconds in cost.values())]
        cells += [f"{sum(cost.values()):,.0f} s", f"{1000 * sum(cost.values()) / count:.0f}"]
        cells += [f"{one['compared'] / count:.1f}", f"{peak[0]:.2f} GB, {peak[1]:.2f} GB"]
        copies = one.get("copies")
        cells += [f"{copies['found']} of {copies['planted']}", str(copies["others"])] if copies else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Processor time of the parts, and memory, by the number of images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    time_axis, memory_axis = figure.subplots(1, 2)
    counts = [one["images"] for one in results]
    for name in ("describe", "nominate", "compare", "other"):
        values = [1000 * one["seconds"][name] / one["images"] for one in results]
        time_axis.plot(counts, values, "o-", label="rest" if name == "other" else name)
    total = [1000 * sum(one["seconds"].values()) / one["images"] for one in results]
    time_axis.plot(counts, total, "ko-", label="all")
    time_axis.axhline(72, color="grey", linestyle=":", label="one hour of two cores, at 100,000")
    time_axis.set(xscale="log", ylim=(0, None), xlabel="images", ylabel="ms of processor time an image")
    for kind, label in ((0, "without pages of files"), (1, "with them")):
        peaks = [max(part[kind] for part in one["memory_gb"].values()) for one in results]
        memory_axis.plot(counts, peaks, "o-", label=label)
    memory_axis.set(xscale="log", ylim=(0, 4.2), xlabel="images", ylabel="GB at the peak, all processes")
    for axis in (time_axis, memory_axis):
        axis.legend(frameon=False, fontsize=8)
        axis.minorticks_off()
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Audit each size in a process of its own, or print and plot what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="dataset folder")
    parser.add_argument("--images", type=int, nargs="+", default=[])
    parser.add_argument("--copies", type=Path, help="copies.csv of leaks_stand_in.py")
    parser.add_argument("--work", type=Path, required=True, help="folder for the audits and scale.jsonl")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="SVG to draw")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    record = options.work / "scale.jsonl"
    if options.inside:
        line = audit(options.data, options.images[0], options.copies, options.work, options.workers)
        with record.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return
    for count in options.images:
        given = [options.data, "--work", str(options.work), "--workers", str(options.workers), "--inside"]
        given += [] if options.copies is None else ["--copies", str(options.copies)]
        subprocess.run([sys.executable, __file__, *given, "--images", str(count)], check=True)
    by_count = {one["images"]: one for one in map(json.loads, record.read_text().splitlines())}
    results = [by_count[count] for count in sorted(by_count)]
    print(table(results))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
