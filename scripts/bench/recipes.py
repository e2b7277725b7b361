"""Pretraining recipes side by side: each is trained, embedded and scored on every data set, several at once.

    python scripts/bench/recipes.py scripts/bench/recipes/keep.yaml --data data/ham10000 data/pad_ufes_20 --work DIR
        [--seeds 0 1 2] [--lanes 4] [--only NAME ...] [--out page.md] [--training.epochs 10 ...]

The YAML file lists recipes: ``name``, ``config`` (and ``options`` to `dermssl pretrain`) or ``encoder`` (scored as it
is), ``image_size`` of the scores, ``linear: true`` where the linear probe counts too, ``seeds`` where they are not
those asked for. Further options go to every `pretrain`.

Scores are the balanced accuracy of kNN and linear probe in 5 folds of groups over all images, and recall@1 of each
image whose lesion has another image. A further column has the queries of the test rows alone, whose lesions no run has
seen. A score is kept in ``DIR/scores.jsonl`` as it comes, and the same command goes on after a cut. The page gives the
mean and the range over the seeds. A paired difference to the first recipe is the mean over seeds; its 95% interval is a
bootstrap over groups.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from machine import describe, publish

from dermeval.features.embeddings import open_embeddings
from dermssl import neighbours
from dermssl.parallel import available_cores

COLUMNS = ("kNN", "recall@1", "recall@1, unseen lesions", "linear")
DRAWS = 2000


def unseen_recall(folder: Path) -> tuple[float, dict[str, list]]:
    """Same-lesion recall@1 of the test rows' images among all images, and each query's group and hit."""
    embeddings = open_embeddings(folder)
    rows = embeddings.frame
    queries, hits = neighbours.recall_at_1(
        np.asarray(embeddings.features, dtype=np.float32), rows["lesion_id"].to_numpy(object)
    )
    test = (rows["split"] == "test").to_numpy()[queries]
    kept = hits[test].astype(float)
    return float(kept.mean()), {"group": rows["group_id"].to_numpy()[queries][test].tolist(), "hit": kept.tolist()}


class Jobs:
    """Trains and scores; every line of ``scores.jsonl`` is one recipe, seed and data set."""

    def __init__(self, options: argparse.Namespace, further: list[str]) -> None:
        self.options, self.further = options, further
        self.scores, self.lock = options.work / "scores.jsonl", threading.Lock()
        self.threads = max(1, available_cores() // options.lanes)
        known = self.scores.read_text().splitlines() if self.scores.exists() else []
        self.done = {(line["name"], line["seed"], line["set"]) for line in map(json.loads, known)}

    def command(self, log: Path, package: str, *arguments: Any) -> None:
        """One command of ours; what it prints goes to ``log``."""
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        with log.open("a") as stream:
            subprocess.run(
                [sys.executable, "-m", package, *map(str, arguments)],
                check=True, stdout=stream, stderr=stream, env=environment,
            )  # fmt: skip

    def run(self, recipe: dict[str, Any], seed: int) -> bool:
        """Train one recipe with one seed and score it. A failure is told, and the other recipes go on."""
        place = self.options.work / re.sub(r"[^\w.-]+", "_", f"{recipe['name']}_{seed}")
        log = place.with_name(f"{place.name}.log")
        sets = [data for data in self.options.data if (recipe["name"], seed, Path(data).name) not in self.done]
        try:
            seconds = self.train(recipe, seed, place, log) if sets else 0.0
            for data in sets:
                self.score(recipe, seed, place, log, data, seconds)
        except subprocess.CalledProcessError:
            print(f"{place.name} failed: {log.read_text().splitlines()[-1:]}", file=sys.stderr, flush=True)
            return False
        return True

    def train(self, recipe: dict[str, Any], seed: int, place: Path, log: Path) -> float:
        """Wall-clock seconds of the whole run, other lanes beside it; nothing where the recipe is an encoder."""
        if "config" not in recipe:
            return 0.0
        since = time.perf_counter()
        given = [part for key, value in recipe.get("options", {}).items() for part in (f"--{key}", value)]
        self.command(
            log, "dermssl", "pretrain", "--config", recipe["config"], "--data", *self.options.data, "--out", place,
            "--training.seed", seed, "--data.workers", max(1, self.threads - 1), *given, *self.further,
        )  # fmt: skip
        return time.perf_counter() - since

    def score(self, recipe: dict[str, Any], seed: int, place: Path, log: Path, data: str, seconds: float) -> None:
        """Embed one data set, score it and write the line."""
        folder = place.with_name(f"{place.name}_{Path(data).name}")
        encoder = recipe.get("encoder", place)
        size = ["--image-size", recipe["image_size"]] if "image_size" in recipe else []
        self.command(log, "dermeval", "embed", "--encoder", encoder, "--data", data, "--out", folder, *size,
                     "--workers", max(1, self.threads - 1), "--overwrite")  # fmt: skip
        line = {"name": recipe["name"], "seed": seed, "set": Path(data).name, "seconds": round(seconds, 1)}
        for probe in ("knn", "linear") if recipe.get("linear") else ("knn",):
            out = folder.with_name(f"{folder.name}_{probe}.json")
            self.command(log, "dermeval", probe, folder, "--split", "folds", "--draws", 200, "--json", out)
            result = json.loads(out.read_text())
            name = {"knn": "kNN"}.get(probe, probe)
            line[name] = result["levels"]["image"]["scores"]["balanced_accuracy"]["value"]
            line |= {"recall@1": result["recall_at_1"][0]["value"]} if probe == "knn" else {}
        line["recall@1, unseen lesions"], line["unseen"] = unseen_recall(folder)
        shutil.rmtree(folder)
        with self.lock, self.scores.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def paired(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """Difference of recall@1 on unseen lesions, mean over the seeds, with an interval over groups."""
    means = [pd.DataFrame(list(side["unseen"].map(lambda u: u["hit"]))).mean() for side in (ours, theirs)]
    by_group = (means[0] - means[1]).groupby(pd.Series(ours["unseen"].iloc[0]["group"])).agg(["sum", "size"])
    counts = np.random.default_rng(0).multinomial(len(by_group), np.full(len(by_group), 1 / len(by_group)), DRAWS)
    draws = (counts @ by_group["sum"].to_numpy()) / (counts @ by_group["size"].to_numpy())
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{by_group['sum'].sum() / by_group['size'].sum():+.3f} [{low:+.3f}, {high:+.3f}]"


def page(scores: pd.DataFrame) -> str:
    """One table per data set."""
    lines = []
    for data, rows in scores.groupby("set", sort=False):
        columns = [column for column in COLUMNS if column in rows]
        first = rows[rows["name"] == rows["name"].iloc[0]]
        compared = f"unseen, difference from {rows['name'].iloc[0]}"
        lines += [f"## {data}", "", "| recipe | seeds | s | " + " | ".join([*columns, compared]) + " |"]
        lines.append("|---" * (len(columns) + 4) + "|")
        for name, of_recipe in rows.groupby("name", sort=False):
            cells = [_cell(of_recipe[column].dropna()) for column in columns]
            cells.append(paired(of_recipe, first))
            lines.append(
                f"| {name} | {len(of_recipe)} | {of_recipe['seconds'].mean():.0f} | " + " | ".join(cells) + " |"
            )
        lines.append("")
    return "\n".join(lines)


def _cell(values: pd.Series) -> str:
    if values.empty:
        return ""
    return f"{values.mean():.3f}" + (f" ({values.min():.3f}-{values.max():.3f})" if len(values) > 1 else "")


def main() -> None:
    """Run what is not yet scored, then print (or write) the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path)
    parser.add_argument("--data", nargs="+", required=True, help="dataset folders")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and scores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lanes", type=int, default=1, help="recipes that run at the same time")
    parser.add_argument("--only", nargs="+", help="names of recipes; default: all")
    parser.add_argument("--out", type=Path, help="also write the page here")
    options, further = parser.parse_known_args()
    options.work.mkdir(parents=True, exist_ok=True)
    machine = describe()
    recipes = [r for r in yaml.safe_load(options.recipes.read_text()) if not options.only or r["name"] in options.only]
    jobs = Jobs(options, further)
    asked = [
        (r, seed) for r in recipes for seed in r.get("seeds", options.seeds if "config" in r else options.seeds[:1])
    ]
    with ThreadPoolExecutor(options.lanes) as lanes:
        done = list(lanes.map(jobs.run, *zip(*asked, strict=True)))
    scores = pd.DataFrame(map(json.loads, jobs.scores.read_text().splitlines()))
    order = {recipe["name"]: place for place, recipe in enumerate(recipes)}
    scores = scores[scores["name"].isin(order)].sort_values(["name", "seed"], key=lambda c: c.map(order).fillna(c))
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    about = [f"`python scripts/bench/recipes.py {' '.join(sys.argv[1:])}`", "", *machine, f"- {card}", ""]
    publish("\n".join(about) + "\n" + page(scores), options.out)
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
