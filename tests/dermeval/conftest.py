"""Tiny data sets of drawn images, written through the real writers, with embeddings of known geometry."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from dermeval.features.embeddings import write_embeddings
from dermssl import licences
from dermssl.dataset import hashes, manifest, store
from dermssl.dataset.dataset import open_dataset
from dermssl.files import write_json, write_parquet


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
def make_dataset(tmp_path):
    """``make_dataset(name, images, groups, ...)`` -> a dataset folder as ``dermssl prepare`` would leave it."""

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
                "sha256": hashes.file_hash(jpegs[number]),
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
            "name": name,
            "synthetic": False,
            "licence": licences.notice(name, licence, "Drawn for a test.", synthetic=False),
            "group": "patient",
            "case": "patient",
            "patient_key": True,
            "source": "folder",
            "short_side": 96,
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
