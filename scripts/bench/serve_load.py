"""`dermeval serve` under load: answer times of concurrent clients, with and without filters, at 100,000 images.

    python scripts/bench/serve_load.py --work /tmp/serve_load
    python scripts/bench/serve_load.py --photos raw/pad_ufes_20/images --index index/all     # photos instead

The images are one small drawn JPEG each, the features are those of `search_scale.py`. Clients ask one after the other
without a pause, so the server is always busy. Each search is by another image of the collection. Before that, each
server gets 1,000 malformed requests (those of `tests/dermeval/web/test_abuse.py`).
"""

import argparse
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from PIL import Image
from search_scale import drawn, repeated

from dermeval.features.embeddings import write_embeddings
from dermeval.retrieval.index import index
from dermeval.retrieval.options import IndexOptions
from dermssl import licences
from dermssl.dataset import manifest, store
from dermssl.dataset.dataset import open_dataset
from dermssl.files import write_json, write_parquet

sys.path.append(str(Path(__file__).parents[2] / "tests/dermeval/web"))
from test_abuse import malformed, send_raw

FILTERS = ("", "fitzpatrick >= 5 and country == 'Mali'", "age > 97")
COUNTRIES = ("Guinea", "Madagascar", "Malawi", "Mali", "Togo")


def make_embeddings(work: Path, rows: int, dim: int, real: Path | None = None) -> Path:
    """A data set and its embeddings, drawn or ``real`` features repeated; what is there already is kept."""
    out = work / f"embeddings-{rows}"
    if out.exists():
        return out
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "image_id": [f"load/{row}" for row in range(rows)],
            "dataset": "load",
            "file": [f"{row}.jpg" for row in range(rows)],
            "sha256": [f"{row:064x}" for row in range(rows)],
            "pixel_sha256": [f"{row:064x}" for row in range(rows)],
            "phash": [[0] * 8] * rows,
            "fitzpatrick": random.integers(1, 7, rows),
            "age": random.integers(0, 100, rows).astype(float),
            "country": random.choice(COUNTRIES, rows),
            "condition": random.choice(["eczema", "fungal", "scabies", "other"], rows),
            **dict.fromkeys(("width", "height", "stored_width", "stored_height"), 16),
        }
    )
    for column in ("patient_id", "group_id", "case_id"):
        frame[column] = [f"load/P{row // 3}" for row in range(rows)]
    data = work / f"data-{rows}"
    jpeg = store.encode(Image.fromarray(random.integers(100, 200, (16, 16, 3), dtype=np.uint8)))
    store.write_shard(data / store.shard_name(0), [jpeg] * rows)
    write_parquet(data / "manifest.parquet", manifest.to_table(frame))
    target = {"column": "condition", "classes": ["eczema", "fungal", "other", "scabies"], "kind": "multiclass"}
    info = {
        "schema_version": manifest.SCHEMA_VERSION,
        "title": "load",
        "counts": {},
        "name": "load",
        "synthetic": True,
        "licence": licences.notice("load", "CC0-1.0", "Drawn.", synthetic=True),
        "group": "patient",
        "case": "patient",
        "patient_key": True,
        "source": "folder",
        "short_side": 16,
        "targets": {"condition": target},
    }
    write_json(data / "dataset.json", info)
    features = repeated(work / "vectors.npy", rows, real) if real else drawn(work / "vectors.npy", rows, dim)
    encoder = {"path": "imported:drawn", "fingerprint": "drawn", "preprocessing": {}, "licences": []}
    write_embeddings(out, features, [open_dataset(data)], encoder, {})
    return out


def make_index(work: Path, rows: int, dim: int, kind: Any, real: Path | None = None) -> Path:
    """The index of these embeddings; what is there already is kept."""
    out = work / f"index-{rows}-{kind}"
    if not out.exists():
        index(IndexOptions(sources=[str(make_embeddings(work, rows, dim, real))], out=str(out), type=kind))
    return out


def start(folder: Path, port: int) -> subprocess.Popen:
    """The server, once it answers."""
    command = [sys.executable, "-m", "dermeval", "serve", str(folder), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while time.monotonic() < until:
        try:
            httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=5)
            return server
        except httpx.TransportError:
            time.sleep(0.5)
    server.terminate()
    raise SystemExit("the server did not start")


def ask(port: int, clients: int, requests: int, send: Callable) -> tuple[np.ndarray, int]:
    """Milliseconds of every answer to ``send(connection, random)``, and how many were not 200."""
    times: list[float] = []
    wrong: list[int] = []

    def client(number: int) -> None:
        """Ask without a pause, and note the time of each answer."""
        random = np.random.default_rng(number)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as connection:
            for _ in range(requests):
                begun = time.perf_counter()
                answer = send(connection, random)
                times.append(1000 * (time.perf_counter() - begun))
                if answer.status_code != 200:
                    wrong.append(answer.status_code)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.array(times), len(wrong)


def image_search(rows: int, where: str) -> Callable:
    """Searches from images of the collection."""

    def send(connection: httpx.Client, random: np.random.Generator) -> httpx.Response:
        params: dict[str, Any] = {"image_id": f"load/{random.integers(rows)}", "k": 12}
        params |= {"where": where} if where else {}
        return connection.get("/api/search", params=params)

    return send


def photo_search(photos: list[bytes]) -> Callable:
    """Searches by one of some photos."""

    def send(connection: httpx.Client, random: np.random.Generator) -> httpx.Response:
        return connection.post("/api/search?k=12", content=photos[random.integers(len(photos))])

    return send


def read_photos(folder: Path) -> dict[str, list[bytes]]:
    """200 photos as they are, 6 of them enlarged to 12 megapixels, and these as the page makes them smaller."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".png"))[:200]
    kinds = {"photos": [file.read_bytes() for file in files]}
    for name, size, quality in (("12 megapixels", (4000, 3000), 90), ("12 megapixels from the page", (1365, 1024), 95)):
        kinds[name] = []
        for file in files[:6]:
            buffer = io.BytesIO()
            Image.open(file).convert("RGB").resize((4000, 3000)).resize(size).save(buffer, "JPEG", quality=quality)
            kinds[name].append(buffer.getvalue())
    return kinds


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--kinds", nargs="+", default=["flat", "scan"])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--malformed", type=int, default=1000, help="malformed requests that each server gets first")
    parser.add_argument("--port", type=int, default=8791)
    parser.add_argument("--photos", type=Path, help="folder of photos to send to the server of --index")
    parser.add_argument("--index", type=Path, help="with --photos: the index of an encoder within reach")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}\n")
    print("| index | filter | clients | median ms | p95 ms | answers a second | processor ms an answer | errors |")
    print("|---" * 8 + "|")
    if options.photos:
        kinds = {name: photo_search(photos) for name, photos in read_photos(options.photos).items()}
        measure(options, options.index.name, start(options.index, options.port), kinds)
    else:
        for kind in options.kinds:
            server = start(make_index(options.work, options.rows, options.dim, kind), options.port)
            measure(options, kind, server, {where or "none": image_search(options.rows, where) for where in FILTERS})
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


def measure(options: argparse.Namespace, name: str, server: subprocess.Popen, kinds: dict[str, Callable]) -> None:
    """Print the rows of one server, and end it."""
    try:
        for number in range(options.malformed):
            send_raw(options.port, malformed(number))
        for clients in options.clients:
            for what, send in kinds.items():
                ask(options.port, 1, 3, send)
                begun, used = time.perf_counter(), processor_seconds(server.pid)
                times, wrong = ask(options.port, clients, options.requests, send)
                rate = len(times) / (time.perf_counter() - begun)
                used = 1000 * (processor_seconds(server.pid) - used) / len(times)
                middle, slow = np.quantile(times, [0.5, 0.95])
                cells = [name, what, clients, f"{middle:.0f}", f"{slow:.0f}", f"{rate:.0f}", f"{used:.1f}", wrong]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
