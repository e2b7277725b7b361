"""Finds the images that an encoder saw in pretraining, by the ledger of its run folder or of its export."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from dermeval.features.alignment import same_scene
from dermeval.features.options import HASH_BITS
from dermssl import neighbours
from dermssl.backbone.encoder_folder import weights_folder
from dermssl.backbone.pretrained import LEDGER, find_ledger, unrecorded_starts
from dermssl.dataset.dataset import Dataset, open_dataset
from dermssl.errors import InputError
from dermssl.files import read_parquet, read_yaml, sha256_file

REASONS = ("file", "pixels", "hash", "patient", "lesion", "case")
COLUMNS = ("image_id", "dataset", "sha256", "pixel_sha256", "phash", "patient_id", "lesion_id", "group_id")


@dataclass(frozen=True)
class Seen:
    """The reasons why images count as seen: bool columns `REASONS` by ``image_id``, None if there is no ledger.

    ``source`` is the ledger, or why there is none. ``suspected`` are the ids of possible copies, which do not count:
    their hash is within `HASH_BITS` of a seen image's, but the pixels of one of the two could not be read.
    """

    reasons: pd.DataFrame | None
    source: str
    suspected: frozenset[str] = frozenset()

    def flags(self, image_ids: Sequence[str] | pd.Series) -> pd.Series:
        """Whether each image is contaminated, ``(N,)`` nullable boolean in the given order; null if unknown."""
        if self.reasons is None:
            return pd.Series(pd.NA, index=range(len(image_ids)), dtype="boolean")
        return self.reasons.loc[list(image_ids)].any(axis=1).astype("boolean").reset_index(drop=True)


def seen_images(encoder: dict[str, Any], frame: pd.DataFrame, datasets: Mapping[str, Dataset] | None = None) -> Seen:
    """The images of the manifest ``frame`` that an encoder, by its record ``encoder``, was trained on.

    An image counts as seen if it shares its file, pixels, patient or lesion with a seen image, or only its group (the
    reason ``case``): of one patient some images may lack the patient. It also counts if its perceptual hash is within
    `HASH_BITS` bits of a seen image's, in any flip or turn, and the stored pixels confirm a copy (`same_scene`).
    ``datasets`` by name are those of ``frame``; the ledger's are opened from the paths in the run's config. Images in
    the ledger that training never reached do not count.
    """
    if encoder["path"].startswith("random:"):
        reasons = pd.DataFrame(False, index=frame["image_id"], columns=list(REASONS))
        return Seen(reasons, f"{encoder['path']} is untrained")
    path, problem = _find(encoder)
    if path is None:
        return Seen(None, problem)
    starts = [*unrecorded_starts(encoder.get("licences", [])), *encoder.get("training", {}).get("unrecorded", [])]
    source = str(path) + "".join(f"; what its start, {name}, was trained on is not recorded" for name in starts)
    columns = [*COLUMNS, "times_seen"]
    ledger = read_parquet(path, "dermssl pretrain", columns).select(columns).to_pandas()
    ledger = ledger[ledger["times_seen"] > 0].reset_index(drop=True)
    known, trained = dict(datasets or {}), {}
    config = read_yaml(path.parent / "config.yaml") if (path.parent / "config.yaml").is_file() else {}
    for folder in (config.get("data") or {}).get("folders", []):
        with contextlib.suppress(InputError, OSError):
            dataset = open_dataset(str(folder))
            trained[dataset.name] = dataset
    return _by_ledger(frame, ledger, source, known, trained | known)


def _find(encoder: dict[str, Any]) -> tuple[Path | None, str]:
    """The ledger of the weights that made the features, or None and the reason."""
    name = encoder["path"]
    if name.startswith(("timm:", "imported:")) or Path(name).is_file():
        return None, f"what {name} was trained on is not recorded"
    if name.startswith("pixels:"):
        return None, f"{name} was fitted on train and unsplit images, which no ledger records"
    weights = weights_folder(Path(name)) / "model.safetensors"
    if not weights.is_file():
        return None, f"{name} is out of reach"
    if sha256_file(weights) != encoder["fingerprint"]:
        return None, f"{name} was changed after these features were made"
    found = find_ledger(Path(name), encoder.get("training"))
    lost = f"{name} has no {LEDGER}, which `dermssl pretrain` writes when it ends, or it was replaced since the export"
    return found, "" if found else lost


def _by_ledger(
    frame: pd.DataFrame, ledger: pd.DataFrame, source: str, ours: dict[str, Dataset], theirs: dict[str, Dataset]
) -> Seen:
    patient, lesion = (_shared(frame[name], ledger[name]) for name in ("patient_id", "lesion_id"))
    columns = {
        "file": _shared(frame["sha256"], ledger["sha256"]),
        "pixels": _shared(frame["pixel_sha256"], ledger["pixel_sha256"]),
        "hash": False,
        "patient": patient,
        "lesion": lesion,
        "case": _shared(frame["group_id"], ledger["group_id"]) & ~patient & ~lesion,
    }
    reasons = pd.DataFrame(columns, index=pd.Index(frame["image_id"]))
    known = reasons.any(axis=1).to_numpy()
    copied, possible = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    near = np.empty((4, 0), int)
    if len(frame) and len(ledger):
        mine, other = (np.stack(part["phash"].to_numpy()) for part in (frame, ledger))
        near = np.array(neighbours.near_images(mine, other, HASH_BITS))
    pairs = near[:3, np.argsort(near[3], kind="stable")].T  # the nearest first
    for row, other, view in tqdm(pairs, "possible copies", unit="pair", disable=None, leave=False, delay=3):
        if known[row] or copied[row]:
            continue
        one, two = _stored_image(ours, frame.iloc[row]), _stored_image(theirs, ledger.iloc[other])
        if one is None or two is None:
            possible[row] = True
        else:
            copied[row] = same_scene(np.asarray(one), np.asarray(two), int(view))
    reasons["hash"] = copied
    return Seen(reasons, source, frozenset(frame["image_id"][possible & ~copied]))


def _stored_image(datasets: dict[str, Dataset], seen: pd.Series) -> Image.Image | None:
    """The stored image of a manifest row; None if its data set is out of reach, or has other pixels for it now."""
    dataset = datasets.get(seen["dataset"])
    row = dataset.rows.get(seen["image_id"]) if dataset else None
    if dataset is None or row is None or dataset.table["pixel_sha256"][row].as_py() != seen["pixel_sha256"]:
        return None
    return dataset.images.image(row)


def _shared(values: pd.Series, others: pd.Series) -> np.ndarray:
    return values.isin(set(others.dropna())).to_numpy()
