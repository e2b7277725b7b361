"""Tiny data sets of drawn images, written through the real writers, with embeddings of known geometry."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from dermeval.features.embeddings import write_embeddings
from dermssl import licences
from dermssl.dataset import hashes, manifest, store
from dermssl.dataset.dataset import open_dataset
from dermssl.dataset.targets import Target
from dermssl.files import write_json, write_parquet

CONDITION = Target("condition", ("Eczema", "Fungal", "Others", "Scabies"), level="case")


@pytest.fixture(scope="session")
def draw_skin():
    """``draw_skin(seed, size=96)`` -> an RGB picture with texture at several scales, unlike that of any other seed."""

    def draw(seed: int, size: int = 96) -> Image.Image:
        random = np.random.default_rng(seed)
        layers = [gaussian_filter(random.normal(size=(size, size)), sigma) * sigma for sigma in (1, 2, 5, 12)]
        grey = sum(layers)
        grey = (grey - grey.mean()) / grey.std()
        rgb = np.stack([170 + 25 * grey, 120 + 25 * grey, 100 + 20 * grey], axis=-1)
        return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))

    return draw


@pytest.fixture
def make_dataset(make_picture_dataset):
    """The data sets of this folder's tests hold given pictures, unless its own conftest says otherwise."""
    return make_picture_dataset


@pytest.fixture
def make_picture_dataset(tmp_path):
    """``make_picture_dataset(name, images, groups, ...)`` -> a dataset folder as ``dermssl prepare`` would leave it."""

    def make(
        name: str,
        images: list[Image.Image],
        groups: list[str],
        splits: list[str | None] | None = None,
        labels: list[str] | None = None,
        licence: str = "CC0-1.0",
    ) -> Path:
        folder = tmp_path / f"data-{name}"
        jpegs = [store.encode(image) for image in images]
        rows = [
            {
                "image_id": f"{name}/{number}",
                "dataset": name,
                "file": f"{number}.jpg",
                "patient_id": f"{name}/{group}",
                "group_id": f"{name}/{group}",
                "case_id": f"{name}/{group}",
                "split": splits[number] if splits else None,
                "dx": labels[number] if labels else None,
                "width": image.width,
                "height": image.height,
                "stored_width": image.width,
                "stored_height": image.height,
                "sha256": hashlib.sha256(jpegs[number]).hexdigest(),
                "pixel_sha256": hashes.pixel_hash(image),
                "phash": hashes.perceptual_hashes(image),
            }
            for number, (image, group) in enumerate(zip(images, groups, strict=True))
        ]
        write_parquet(folder / "manifest.parquet", manifest.to_table(pd.DataFrame(rows)))
        store.write_shard(folder / store.shard_name(0), jpegs)
        target = {"column": "dx", "classes": sorted(set(labels or ["a", "b"])), "kind": "multiclass"}
        info = {
            "schema_version": manifest.SCHEMA_VERSION,
            "title": name,
            "counts": {},
            "name": name,
            "synthetic": False,
            "licence": licences.notice(name, licence, "Drawn for a test.", synthetic=False),
            "group": "patient",
            "case": "patient",
            "patient_key": True,
            "source": "folder",
            "short_side": 96,
            "overlaps": [],
            "split": "official",
            "notes": [],
            "targets": {"dx": target},
        }
        write_json(folder / "dataset.json", info)
        return folder

    return make


@pytest.fixture
def embed_as(tmp_path):
    """``embed_as(folder, features, encoder="e")`` -> an embeddings folder of one dataset folder."""

    def embed(folder: Path, features: np.ndarray, encoder: str = "e") -> Path:
        out = tmp_path / f"embeddings-{folder.name}-{encoder}"
        record = {"path": encoder, "fingerprint": encoder, "preprocessing": {"input_size": [3, 32, 32]}}
        write_embeddings(out, features.astype(np.float32), [open_dataset(folder)], record, {})
        return out

    return embed


def patients_frame(patients: int, seed: int, name: str = "toy") -> pd.DataFrame:
    """1-4 photos per patient, four conditions, as PASSION has them; labels do not follow the row order."""
    random = np.random.default_rng(seed)
    conditions = random.permutation(np.resize(CONDITION.classes, patients))
    rows = []
    for number in range(patients):
        person = {
            "patient_id": f"{name}/P{number:03d}",
            "group_id": f"{name}/P{number:03d}",
            "case_id": f"{name}/P{number:03d}",
            "split": "test" if number % 4 == 0 else "train",
            "condition": str(conditions[number]),
            "impetigo": "impetigo" if random.random() < 0.3 else "no impetigo",
            "fitzpatrick": int(random.integers(3, 7)),
            "sex": str(random.choice(["female", "male"])),
            "age": float(random.integers(0, 60)),
            "centre": str(random.choice(["Madagascar", "Guinea", "EAS"])),
        }
        rows += [person | {"image_id": f"{name}/{number:03d}_{i}"} for i in range(random.integers(1, 5))]
    return pd.DataFrame(rows)


def _completed(frame: pd.DataFrame, size: int) -> pd.DataFrame:
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in frame["image_id"]]
    return frame.assign(
        dataset=[value.split("/")[0] for value in frame["image_id"]],
        file=frame["image_id"] + ".jpg",
        sha256=digests,
        pixel_sha256=frame.get("pixel_sha256", pd.Series(digests, frame.index)),
        phash=[[0] * 8] * len(frame),
        **dict.fromkeys(("width", "height", "stored_width", "stored_height"), size),
    )


@pytest.fixture(scope="session")
def make_frame() -> Callable[..., pd.DataFrame]:
    """``make_frame(patients, seed)``; see `patients_frame`."""
    return patients_frame


@pytest.fixture
def frame() -> pd.DataFrame:
    """40 patients, about 100 images."""
    return patients_frame(40, seed=0)


@pytest.fixture(scope="session")
def make_toy_dataset() -> Callable[..., Path]:
    """``make(folder, frame, targets, size=8, **info)`` writes a dataset folder of noise images and returns it."""

    def make(folder: Path, frame: pd.DataFrame, targets: dict[str, Target], size: int = 8, **info: Any) -> Path:
        folder.mkdir(parents=True)
        name = frame["image_id"].iloc[0].split("/")[0]
        random = np.random.default_rng(1)
        noise = random.integers(0, 256, (len(frame), size, size, 3), dtype=np.uint8)
        store.write_shard(folder / store.shard_name(0), [store.encode(Image.fromarray(pixels)) for pixels in noise])
        write_parquet(folder / "manifest.parquet", manifest.to_table(_completed(frame, size)))
        entry = {
            "schema_version": manifest.SCHEMA_VERSION,
            "title": name,
            "counts": {},
            "name": name,
            "source": "passion",
            "synthetic": False,
            "licence": licences.notice(name, "CC-BY-4.0", "Toy et al.", False),
            "group": "patient",
            "case": "patient",
            "patient_key": True,
            "short_side": size,
            "overlaps": [],
            "split": "official",
            "notes": [],
            "targets": {key: dataclasses.asdict(target) for key, target in targets.items()},
        }
        write_json(folder / "dataset.json", entry | info)
        return folder

    return make


@pytest.fixture(scope="session")
def make_embeddings(make_toy_dataset: Callable[..., Path]) -> Callable[..., Path]:
    """``make(folder, frame, features, targets, **info)`` writes dataset and embeddings folders; returns the latter."""

    def make(
        folder: Path,
        frame: pd.DataFrame,
        features: np.ndarray,
        targets: dict[str, Target] | None = None,
        fingerprint: str = "f" * 64,
        **info: Any,
    ) -> Path:
        targets = {"condition": CONDITION} if targets is None else targets
        dataset = make_toy_dataset(folder / "data", frame, targets, **info)
        encoder = {"path": "toy", "name": "toy", "fingerprint": fingerprint, "preprocessing": {}, "licences": []}
        write_embeddings(folder / "emb", features.astype(np.float32), [open_dataset(dataset)], encoder, {})
        return folder / "emb"

    return make
