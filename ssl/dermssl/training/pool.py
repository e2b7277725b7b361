"""Chooses the rows of the dataset folders to train on, and those that are kept out to score the encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa

from dermssl import log
from dermssl.dataset.dataset import Dataset
from dermssl.dataset.splits import draw_split
from dermssl.dataset.targets import Target
from dermssl.errors import InputError, did_you_mean
from dermssl.training.options import OnlineOptions
from dermssl.views.loader import Pool
from dermssl.views.positives import find_partners

COLUMNS = ("image_id", "dataset", "patient_id", "lesion_id", "group_id", "sha256", "pixel_sha256", "phash")
"""Columns of a ledger, besides ``times_seen``."""


@dataclass(frozen=True)
class OnlineSet:
    """Labelled rows of one data set: ``fit`` are neighbours of the kNN, ``score`` are kept out of pretraining.

    ``labels`` (rows of the set,) index ``classes``; -1 is unknown.
    """

    dataset: Dataset
    target: str
    classes: tuple[str, ...]
    fit: np.ndarray
    score: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class TrainingData:
    """The training ``rows`` of each data set, and the labelled sets that the run is scored on (``online``)."""

    datasets: Sequence[Dataset]
    rows: Sequence[np.ndarray]
    online: Sequence[OnlineSet]

    def pool(self, positives: str) -> Pool:
        """The rows for the loader; ``positives`` (the option of the views) says which are positives of each other.

        Raises InputError: no two training images show one case (lesion, patient).
        """
        sizes = [len(rows) for rows in self.rows]
        store = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
        pool = Pool([dataset.images for dataset in self.datasets], store, np.concatenate(self.rows))
        if positives == "image":
            return pool
        groups, patients = (
            np.concatenate([d.column(name)[rows] for d, rows in zip(self.datasets, self.rows, strict=True)])
            for name in (f"{positives}_id", "patient_id")
        )
        partners = find_partners(groups, patients)
        if not partners.paired:
            raise InputError(
                f"views.positives is {positives}, but no two training images show one {positives} (`{positives}_id`): "
                "use image, or another of case, lesion and patient"
            )
        several = f"{partners.paired} of {len(pool.row)} training images"
        log.info(f"positives: {several} have another photograph of their {positives}")
        return replace(pool, partners=partners)

    def ledger(self, times_seen: np.ndarray) -> pa.Table:
        """One row per training image: ids, hashes, and how often it was in a batch (see `Partners.shown`)."""
        parts = [d.table.select(COLUMNS).take(rows) for d, rows in zip(self.datasets, self.rows, strict=True)]
        return pa.concat_tables(parts).append_column("times_seen", pa.array(times_seen, pa.int64()))


def join_ledgers(ledgers: Sequence[pa.Table]) -> pa.Table:
    """One ledger with one row per image; ``times_seen`` adds up.

    If the ids or hashes of an image differ between ledgers, it keeps a row of each, since the leak check needs all.
    """
    table = pa.concat_tables(ledgers, promote_options="permissive")
    keys = [name for name in COLUMNS if name != "phash"]  # equal pixels have equal perceptual hashes
    image = table.select(keys).to_pandas().groupby(keys, dropna=False, sort=False).ngroup()
    _, first = np.unique(image, return_index=True)
    total = np.bincount(image, weights=table["times_seen"]).astype(np.int64)
    joined = table.take(first)
    return joined.set_column(joined.column_names.index("times_seen"), "times_seen", pa.array(total))


def select_rows(
    datasets: Sequence[Dataset],
    splits: str,
    options: OnlineOptions,
    seed: int,
    shares: Sequence[float] | None = None,
) -> TrainingData:
    """Choose the training rows: no image of a patient (or lesion) that is scored online or in a test split.

    ``splits`` ``all`` does not keep the test split apart. Of a data set whose share (`Sampler.shares`) is 0 nothing is
    drawn, so its images do not replace their copies in other sets.
    Raises InputError: nothing is left to train on, or the online target does not exist.
    """
    online = _online_sets(datasets, options, seed)
    columns = ["group_id", "pixel_sha256", "split"]
    frame = pd.concat([dataset.frame(columns).assign(set=number) for number, dataset in enumerate(datasets)])
    scored = pd.concat([one.dataset.frame(columns).iloc[one.score] for one in online]) if online else frame.head(0)
    wanted = (splits == "all") | frame["split"].isna() | (frame["split"] == "train")
    apart = {"the online evaluation scores": scored}
    apart |= {} if splits == "all" else {"the test split holds": frame[frame["split"] == "test"]}
    held_out = pd.concat(list(apart.values()))
    kept_out = wanted & frame["group_id"].isin(held_out["group_id"])
    for reason, rows_apart in apart.items():
        theirs = wanted & frame["group_id"].isin(rows_apart["group_id"])
        for number, dataset in enumerate(datasets):
            counts = [side[frame["set"] == number].sum() for side in (theirs, wanted)]
            if counts[0]:
                kept = f"{counts[0]} of {counts[1]} training images of {dataset.name} are kept out"
                log.info("%s: %s images of their patients or lesions", kept, reason)
    # Of several images with the same pixels one is kept, and none with a copy in a test split or among scored images.
    left = frame[wanted & ~kept_out]
    in_score = left["pixel_sha256"].isin(held_out["pixel_sha256"])
    drawn = left["set"].isin([number for number in range(len(datasets)) if shares is None or shares[number]])
    doubled = left["pixel_sha256"].where(drawn).duplicated() & drawn & ~in_score
    for copies, originals in ((in_score, "test or scored images"), (doubled, "other training images")):
        if copies.any():
            log.warning("left out %d training images with the same pixels as %s", copies.sum(), originals)
    chosen = left["set"][~in_score & ~doubled]
    rows = [chosen.index[chosen == number].to_numpy() for number in range(len(datasets))]
    for dataset, own in zip(datasets, rows, strict=True):
        if not len(own):
            why = "its images are test rows by its `split` column, or copies of images that are used already"
            raise InputError(f"{dataset.folder} has nothing to train on: {why}; leave it out of --data")
    return TrainingData(datasets, rows, online)


def _online_sets(datasets: Sequence[Dataset], options: OnlineOptions, seed: int) -> list[OnlineSet]:
    """The labelled sets with the rows to score: by ``options.target``, or by the first target of each set."""
    labelled = [dataset for dataset in datasets if dataset.targets]
    if options.target is not None:
        labelled = [dataset for dataset in labelled if options.target in dataset.targets]
        if not labelled:
            known = {name for dataset in datasets for name in dataset.targets}
            near = did_you_mean(options.target, known)
            raise InputError(f"online.target: --data has no target '{options.target}'; {near}")
    sets = []
    for dataset in labelled:
        name = options.target or next(iter(dataset.targets))
        online = _split_online(dataset, name, dataset.targets[name], options, seed)
        if online is None and options.target is not None and options.fraction:
            few = f"online.target: {dataset.folder} has too few train rows with a `{name}` to score by"
            raise InputError(f"{few}: name another target, or leave it out")
        sets += [online] if online else []
    return sets


def _split_online(dataset: Dataset, name: str, target: Target, options: OnlineOptions, seed: int) -> OnlineSet | None:
    frame = dataset.frame(["group_id", "pixel_sha256", "split", target.column])
    index = {label: number for number, label in enumerate(target.classes)}
    labels = frame[target.column].map(index).fillna(-1).to_numpy(dtype=np.int64)
    tested = frame["group_id"].isin(frame["group_id"][frame["split"] == "test"])
    trainable = ((frame["split"].isna() | (frame["split"] == "train")) & ~tested & (labels >= 0)).to_numpy()
    score = ((frame["split"] == "val") & (labels >= 0)).to_numpy()
    if not score.any() and trainable.any() and options.fraction:
        fractions = {"fit": 1 - float(options.fraction), "score": float(options.fraction)}
        side = draw_split(frame["group_id"][trainable], labels[trainable], fractions, seed)
        score = np.zeros(len(frame), bool)
        score[np.flatnonzero(trainable)[side == "score"]] = True
    apart = [frame[name].isin(set(frame[name][score])) for name in ("group_id", "pixel_sha256")]
    fit = trainable & ~np.any(apart, axis=0)  # a copy of a scored image would vote for its own label
    if not fit.any() or not score.any():
        return None
    random = np.random.default_rng(seed)
    sides = [random.permutation(np.flatnonzero(side))[: options.max_images] for side in (fit, score)]
    return OnlineSet(dataset, name, target.classes, np.sort(sides[0]), np.sort(sides[1]), labels)
