"""Which images an encoder has seen in pretraining, by the ledger in its run folder (or beside its exported weights)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.features.options import HASH_BITS
from dermssl import neighbours
from dermssl.files import read_parquet, sha256_file

LEDGER = "ledger.parquet"
REASONS = ("file", "pixels", "hash", "patient", "lesion", "case")
COPY_BITS = 4
"""A perceptual hash this near counts as a copy without a look at the pixels. Of 120 images of HAM10000 and PAD-UFES-20
each, re-saved (JPEG 60), halved, flipped or turned, 90-100% come this near; of HAM10000's 1,193 test images 16 come
this near to a train image and 141, nearly all by chance, within the `HASH_BITS` of the audit, which compares pixels."""
COLUMNS = ("sha256", "pixel_sha256", "phash", "patient_id", "lesion_id", "group_id")


@dataclass(frozen=True)
class Seen:
    """Why each image counts as seen: bool columns `REASONS` by ``image_id``; None where that is not known.

    ``source`` is the ledger, or the reason why there is none. ``suspected`` are the ids of images that no reason hits
    but whose hash is within the audit's `HASH_BITS` of a seen image's.
    """

    reasons: pd.DataFrame | None
    source: str
    suspected: frozenset[str] = frozenset()

    def flags(self, image_ids: Sequence[str] | pd.Series) -> pd.Series:
        """Whether each image is contaminated, ``(N,)`` nullable boolean in the given order; null where unknown."""
        if self.reasons is None:
            return pd.Series(pd.NA, index=range(len(image_ids)), dtype="boolean")
        return self.reasons.loc[list(image_ids)].any(axis=1).astype("boolean").reset_index(drop=True)


def seen_images(encoder: dict[str, Any], frame: pd.DataFrame) -> Seen:
    """Images of the manifest ``frame`` that ``encoder`` (as `embedding.json` records it) was trained on.

    An image counts by its file, its pixels, a perceptual hash within `COPY_BITS` bits in any flip or turn, its patient,
    or its lesion; where it has neither patient nor lesion, by its case. Ledger rows that were never seen do not count.
    """
    if encoder["path"].startswith("random:"):
        reasons = pd.DataFrame(False, index=frame["image_id"], columns=list(REASONS))
        return Seen(reasons, f"{encoder['path']} is untrained")
    path, problem = _find(encoder)
    if path is None:
        return Seen(None, problem)
    ledger = read_parquet(path, "dermssl pretrain").select([*COLUMNS, "times_seen"]).to_pandas()
    return _by_ledger(frame, ledger[ledger["times_seen"] > 0], str(path))


def weights_folder(path: Path) -> Path:
    """The folder with the weights of a run folder, or of an exported encoder."""
    return path / "encoder" if (path / "encoder").is_dir() else path


def _find(encoder: dict[str, Any]) -> tuple[Path | None, str]:
    """The ledger of the weights that made the features, or None and why not."""
    name = encoder["path"]
    if name.startswith("timm:"):
        return None, f"what {name} was trained on is not recorded"
    if name.startswith("pixels:"):
        return None, f"{name} was fitted to train and unsplit images, which no ledger records"
    weights = weights_folder(Path(name)) / "model.safetensors"
    if not weights.is_file():
        return None, f"{name} is out of reach"
    if sha256_file(weights) != encoder["fingerprint"]:
        return None, f"{name} has changed since these features were made"
    pointer = encoder.get("training", {}).get("ledger")
    places = [Path(name) / LEDGER, *([Path(pointer)] if pointer else [])]
    if (Path(name).parent / "config.yaml").is_file():  # the encoder/ or best/ of a run folder
        places.append(Path(name).parent / LEDGER)
    found = [place for place in places if place.is_file()]
    return (found[0], "") if found else (None, f"{name} has no {LEDGER}, which `dermssl pretrain` writes when it ends")


def _by_ledger(frame: pd.DataFrame, ledger: pd.DataFrame, source: str) -> Seen:
    bits = _nearest(frame["phash"], ledger["phash"])
    named = (frame["patient_id"].notna() | frame["lesion_id"].notna()).to_numpy()
    found = {
        "file": _shared(frame["sha256"], ledger["sha256"]),
        "pixels": _shared(frame["pixel_sha256"], ledger["pixel_sha256"]),
        "hash": bits <= COPY_BITS,
        "patient": _shared(frame["patient_id"], ledger["patient_id"]),
        "lesion": _shared(frame["lesion_id"], ledger["lesion_id"]),
        "case": _shared(frame["group_id"], ledger["group_id"]) & ~named,
    }
    reasons = pd.DataFrame(found, index=pd.Index(frame["image_id"]))
    suspected = (bits <= HASH_BITS) & ~reasons.any(axis=1).to_numpy()
    return Seen(reasons, source, frozenset(frame["image_id"][suspected]))


def _shared(values: pd.Series, others: pd.Series) -> np.ndarray:
    return values.isin(set(others.dropna())).to_numpy()


def _nearest(hashes: pd.Series, others: pd.Series) -> np.ndarray:
    """Bits between each hash and the nearest of ``others`` in any flip or turn; 64 where none is within `HASH_BITS`."""
    nearest = np.full(len(hashes), 64)
    if len(hashes) and len(others):
        ours, theirs = (np.stack(part.to_numpy()) for part in (hashes, others))
        query, _, _, distance = neighbours.near_images(ours, theirs, HASH_BITS)
        np.minimum.at(nearest, query, distance)
    return nearest
