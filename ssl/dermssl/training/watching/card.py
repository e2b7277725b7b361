"""``MODEL_CARD.md``: data, recipe, scores and limits of an encoder, as a Hugging Face card. Its text: ``card.md``."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dermssl import __version__, licences
from dermssl.backbone.pretrained import describe_weights, unrecorded_starts
from dermssl.files import write_text
from dermssl.methods.registry import METHODS
from dermssl.page import render
from dermssl.training.options import LOCAL_KEYS, PretrainOptions
from dermssl.training.pool import TrainingData
from dermssl.training.run_folder import CARD, START_LEDGER
from dermssl.training.watching.online import BY_TONE, LEAST_PATIENTS, MIX, headline, scored_tones

TONES = ("I-II", "III-IV", "V-VI")
TYPES = ("I", "II", "III", "IV", "V", "VI")
USE = "Use: `timm.create_model('local-dir:<this folder>{part}', pretrained=True, num_classes=0)`"
RARE = 0.1
"""A tone group with a lower share of the images of known skin type counts as rare."""
HUB_LICENCES = {"CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-3.0", "CC0-1.0"}
"""Licences that the Hugging Face Hub knows, by ids in lower case. Others, and mixtures, are `other` with a name."""


def write_card(
    folder: Path, options: PretrainOptions, data: TrainingData, notices: list[dict], times_seen: np.ndarray, facts: dict
) -> None:
    """Write the card: data with licences, recipe, hardware, time, energy, scores, and limits by skin type.

    It names no path of this machine, because it is handed on with the encoder. ``notices`` are the licences of data
    and start. ``times_seen`` counts how often each training row was in a batch. ``facts`` come from `run_facts`.
    """
    whole, seconds, init = facts["steps"] == facts["planned_steps"], facts["seconds"], options.model.init
    moments = {
        "before training (step 0)": facts["baseline"],
        "best (`best/` of the run)": facts["best"],
        "end (`encoder/` of the run)" if whole else "last": facts["last"],
    }
    moments = {moment: scores for moment, scores in moments.items() if scores}
    start = Path(init).name if init else "random weights"
    if init == "timm":
        start = f"the pretrained weights of {options.model.backbone} ({describe_weights(options.model.backbone)})"
    text = render(
        "dermssl/training/watching/card.md",
        version=__version__,
        options=options,
        facts=facts,
        whole=whole,
        use=USE.format(part="/encoder" if whole else "/best"),
        header=_yaml(_header(options, data, notices)),
        forbidding=sorted({entry["id"] for entry in notices if not entry["commercial"]}),
        licence_lines=licences.notice_lines(notices),
        start=start,
        start_known=(folder / START_LEDGER).is_file(),
        unrecorded=[*unrecorded_starts(notices), *facts["unrecorded"]],
        times_seen=times_seen,
        duration=f"{seconds / 3600:.2f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes",
        init=f" --model.init {Path(init).name}" if init else "",
        recipe=_yaml(_recipe(options)),
        scores=_scores(moments),
        mix=MIX,
        data=data,
        by_tone=_scores_by_tone(data, moments),
        least_patients=LEAST_PATIENTS,
        **_seen_tones(data, times_seen),
    )
    write_text(folder / CARD, text + "\n")


def card_of_export(card: str, which: str, step: int) -> str:
    """The card of a run, changed for one of its encoders in a folder of its own."""
    use = USE.format(part="") + f", the run's `{which}` at step {step}"
    return "\n".join(use if line.startswith("Use: ") else line for line in card.split("\n"))


def _yaml(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False).strip()


def _header(options: PretrainOptions, data: TrainingData, notices: list[dict]) -> dict[str, Any]:
    ids = sorted({entry["id"] for entry in notices})
    named = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", "-".join(ids).lower())}
    synthetic = ["synthetic"] if any(entry["synthetic"] for entry in notices) else []
    return {
        **({"license": ids[0].lower()} if len(ids) == 1 and ids[0] in HUB_LICENCES else named),
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["timm", "dermatology", "self-supervised", options.method, *synthetic],
        "datasets": [dataset.name for dataset in data.datasets],
        "metrics": ["balanced_accuracy"] if data.online else ["rankme"],
    }


def _recipe(options: PretrainOptions) -> dict[str, Any]:
    """All settings except those of other methods and those with paths of this machine."""
    others = {*METHODS} - {options.method}
    tree = {name: part for name, part in dataclasses.asdict(options).items() if name not in others}
    for section, _, name in (key.rpartition(".") for key in LOCAL_KEYS):
        del (tree[section] if section else tree)[name]
    return tree


def _table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _scores(moments: Mapping[str, dict[str, float]]) -> str:
    if not moments:
        return ""
    names = [name for name in headline(next(iter(moments.values()))) if name != "step"]
    rows = [[m, scores.get("step", 0), *(f"{scores[n]:.3f}" for n in names)] for m, scores in moments.items()]
    return _table(["", "step", *names], rows)


def _scores_by_tone(data: TrainingData, moments: Mapping[str, dict[str, float]]) -> str:
    """A table of the kNN scores within groups of skin types, with the numbers of images, patients and classes."""
    rows = []
    for online in data.online:
        name, groups = online.dataset.name, online.dataset.column("group_id")[online.score]
        for tone, inside in scored_tones(online, least=1).items():
            found = [scores.get(f"{BY_TONE}/{name}/{tone}") for scores in moments.values()]
            classes = len(set(online.labels[online.score[inside]]))
            counts = [len(inside), len(set(groups[inside])), f"{classes} of {len(online.classes)}"]
            rows.append([name, tone, *counts, *("not scored" if one is None else f"{one:.3f}" for one in found)])
    return _table(["", "type", "images", "patients", "classes", *moments], rows) if rows else ""


def _seen_tones(data: TrainingData, times_seen: np.ndarray) -> dict[str, str]:
    """Training images by tone group and by Fitzpatrick type, patients by tone group, and a text on missing types."""
    counts, types, patients = {}, np.zeros(len(TYPES), int), np.zeros(len(TONES), int)
    seen = np.split(times_seen > 0, np.cumsum([len(rows) for rows in data.rows])[:-1])
    for dataset, chosen, trained in zip(data.datasets, data.rows, seen, strict=True):
        tones, groups, numbers = (
            pd.Series(dataset.column(name)[chosen[trained]]) for name in ("tone_group", "group_id", "fitzpatrick")
        )
        known = tones.value_counts().reindex(TONES, fill_value=0).astype(int)
        counts[dataset.name] = [*known, len(tones) - int(known.sum())]
        patients += groups.groupby(tones).nunique().reindex(TONES, fill_value=0).to_numpy()
        types += np.bincount(numbers.dropna().astype(int), minlength=len(TYPES) + 1)[1:]
    total = np.sum(list(counts.values()), axis=0)
    rows = [[name, *row] for name, row in (*counts.items(), ("all", total))]
    return {
        "tones": _table(["training images", *TONES, "unknown"], rows),
        "by_type": ", ".join(f"{name} {count}" for name, count in zip(TYPES, types, strict=True)),
        "patients": ", ".join(f"{name} {count}" for name, count in zip(TONES, patients, strict=True)),
        "missing": _missing(total),
    }


def _missing(total: np.ndarray) -> str:
    """``total``: images of each of `TONES`, and of unknown tone."""
    known, everything = int(total[:-1].sum()), int(total.sum())
    if not known:
        none = f"The skin type of none of the {everything:,} training images is recorded"
        return f"{none}, so nothing is known about any type until it is measured on labelled images."
    counts = dict(zip(TONES, total[:-1], strict=True))
    absent = " or ".join(tone for tone, count in counts.items() if not count)
    rare = " and ".join(tone for tone, count in counts.items() if 0 < count < RARE * known)
    text = f"The skin type of {total[-1] / everything:.0%} of the training images is not recorded."
    text += f" No image is known to show type {absent}." if absent else ""
    text += f" Type {rare} is rare (under {RARE:.0%} of the known)." if rare else ""
    return text + " Expect worse features where images are missing, and measure before use."
