"""``MODEL_CARD.md``: what went into an encoder, in the Hugging Face card format."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dermssl import __version__, licences
from dermssl.backbone.pretrained import describe_weights, unrecorded_starts
from dermssl.files import write_text
from dermssl.methods.registry import METHODS
from dermssl.training.options import LOCAL_KEYS, PretrainOptions
from dermssl.training.pool import TrainingData
from dermssl.training.run_folder import START_LEDGER
from dermssl.training.watching.online import BY_TONE, LEAST_PATIENTS, MIX, headline, scored_tones

TONES = ("I-II", "III-IV", "V-VI")
TYPES = ("I", "II", "III", "IV", "V", "VI")
USE = "Use: `timm.create_model('local-dir:<this folder>{part}', pretrained=True, num_classes=0)`"
RARE = 0.1
"""Share of the images of known skin type under which a tone group counts as rare."""

HUB_LICENCES = {"CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-3.0", "CC0-1.0"}
"""Ids that the Hugging Face Hub knows, in lower case; anything else, and any mixture, is `other` with a name."""


def write_card(
    folder: Path,
    options: PretrainOptions,
    data: TrainingData,
    notices: list[dict],
    times_seen: np.ndarray,
    facts: dict[str, Any],
) -> None:
    """Data with licences and attribution, recipe, hardware, time, energy, scores, limits by skin type.

    It names no path of this machine, since it is handed on with the encoder.

    Args:
        folder: of the run.
        options: of the run.
        data: what it was given.
        notices: licences of the data.
        times_seen: how often each training row was trained on.
        facts: as `dermssl.training.finish.run_facts` gives them.
    """
    whole = facts["steps"] == facts["planned_steps"]
    parts = [
        "---",
        yaml.safe_dump(_header(options, data, notices), sort_keys=False).strip(),
        "---",
        f"# {options.method} {options.model.backbone}, trained by dermssl {__version__}",
        "",
        "Features of skin images, learned without labels. Not a medical device; no diagnosis is made from it.",
        USE.format(part="/encoder" if whole else "/best"),
        "",
        "## Data and licences",
        *_commercial_use(notices),
        *["- " + line if not line.startswith(" ") else "  " + line.strip() for line in licences.notice_lines(notices)],
        "",
        *_warnings(options, data, notices, (folder / START_LEDGER).is_file()),
        *(
            []
            if whole
            else [f"**Stopped** by the health check at step {facts['steps']} of {facts['planned_steps']}.", ""]
        ),
        "## Recipe, hardware, time, energy",
        *_recipe_lines(options, data, times_seen, facts),
        "",
        "## Scores",
        *_score_lines(data, facts),
        "",
        "## Limits by skin type",
        *_tone_lines(data, times_seen),
        "",
    ]
    write_text(folder / "MODEL_CARD.md", "\n".join(parts))


def card_of_export(card: str, which: str, step: int) -> str:
    """The card of a run as that of one of its encoders, exported into a folder of its own."""
    use = USE.format(part="") + f", the run's `{which}` at step {step}"
    return "\n".join(use if line.startswith("Use: ") else line for line in card.split("\n"))


def _recipe_lines(
    options: PretrainOptions, data: TrainingData, times_seen: np.ndarray, facts: dict[str, Any]
) -> list[str]:
    return [
        f"- {facts['steps']} steps of {options.training.batch} images, {facts['images']:,} images to draw from, each "
        f"seen {times_seen.min()} to {times_seen.max()} times, seed {options.training.seed}"
        + (f"; {facts['skipped_steps']} steps were not finite and left out" if facts["skipped_steps"] else ""),
        f"- started from {_start(options)}",
        f"- {facts['precision']} on {facts['ranks']} rank(s), {facts['hardware']}, {_duration(facts['seconds'])}",
        *([f"- energy of the GPUs: {facts['energy_kwh']} kWh"] if facts["energy_kwh"] else []),
        f"- to reproduce, save what follows as recipe.yaml: `{_command(options, data)}`",
        "",
        "```yaml",
        yaml.safe_dump(_recipe(options), sort_keys=False).strip(),
        "```",
    ]


def _start(options: PretrainOptions) -> str:
    if options.model.init == "timm":
        return f"the pretrained weights of {options.model.backbone} ({describe_weights(options.model.backbone)})"
    return Path(options.model.init).name if options.model.init else "random weights"


def _command(options: PretrainOptions, data: TrainingData) -> str:
    """The command that trains this encoder again; of `model.init` only the last part, as the path is this machine's."""
    init = f" --model.init {Path(options.model.init).name}" if options.model.init else ""
    names = " ".join(dataset.name for dataset in data.datasets)
    return f"dermssl pretrain --config recipe.yaml{init} --data {names} --out checkpoints/again"


def _recipe(options: PretrainOptions) -> dict[str, Any]:
    """All settings but those of other methods and of this machine."""
    tree = {
        name: part for name, part in dataclasses.asdict(options).items() if name not in {*METHODS} - {options.method}
    }
    for key in LOCAL_KEYS:
        *parents, name = key.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        del section[name]
    return tree


def _commercial_use(notices: list[dict[str, Any]]) -> list[str]:
    """What the licences say of commercial use, where it is not allowed or not known."""
    forbidding = {entry["id"] for entry in notices if not entry["commercial"]}
    if not forbidding:
        return []
    if forbidding == {"unknown"}:
        return ["**Whether commercial use is allowed is not known**: a licence below is not recorded.", ""]
    return ["**Non-commercial use only**, because of the licences below.", ""]


def _header(options: PretrainOptions, data: TrainingData, notices: list[dict]) -> dict[str, Any]:
    ids = sorted({entry["id"] for entry in notices})
    known = len(ids) == 1 and ids[0] in HUB_LICENCES
    named = {"license_name": re.sub(r"[^a-z0-9.]+", "-", "-".join(ids).lower())}
    synthetic = ["synthetic"] if any(entry["synthetic"] for entry in notices) else []
    return {
        "license": ids[0].lower() if known else "other",
        **({} if known else named),
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["timm", "dermatology", "self-supervised", options.method, *synthetic],
        "datasets": [dataset.name for dataset in data.datasets],
        "metrics": ["balanced_accuracy"] if data.online else ["rankme"],
    }


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def _warnings(options: PretrainOptions, data: TrainingData, notices: list[dict], start_known: bool) -> list[str]:
    lines = []
    if any(dataset.info["synthetic"] for dataset in data.datasets):
        lines += ["**Trained on SYNTHETIC pictures**: for trying the software, not for skin.", ""]
    read = "Test rows were not read."
    if options.data.splits == "all":
        read = "**Test rows were trained on** (`data.splits all`): scores on those test sets are contaminated."
    seen = "`ledger.parquet` lists every training image by its hashes, so `dermeval` tells which test images were seen."
    if start_known:
        seen += " Those of the run that this one started from stand there too."
    if starts := unrecorded_starts(notices):
        seen += f" The start ({', '.join(starts)}) may have seen test images: what it was trained on is not recorded."
    lines += [f"{read} {seen}", ""]
    return lines


def _score_lines(data: TrainingData, facts: dict[str, Any]) -> list[str]:
    moments = {
        "before training (step 0)": facts["baseline"],
        "best (`best/` of the run)": facts["best"],
        "last" if facts["steps"] < facts["planned_steps"] else "end (`encoder/` of the run)": facts["last"],
    }
    moments = {moment: scores for moment, scores in moments.items() if scores}
    if not moments:
        return ["None measured."]
    names = [name for name in headline(next(iter(moments.values()))) if name != "step"]
    rows = [[m, scores.get("step", 0), *(f"{scores[n]:.3f}" for n in names)] for m, scores in moments.items()]
    table = _table(["", "step", *names], rows)
    rank = "RankMe is the effective rank of the features: in how many directions they vary. It says little about use."
    if not data.online:
        return [*table, "", f"No labels. {rank}"]
    lines = [
        f"`{online.target}` of {online.dataset.name}: {len(online.score):,} images, kept out of pretraining with their "
        f"patients or lesions, {len(online.fit):,} to vote; chance {1 / len(online.classes):.3f}."
        for online in data.online
    ]
    mix = [f"`{MIX}` is the mean of the kNN score and recall@1; it decides which encoder is the best."] * (MIX in names)
    closing = "Online scores are made to watch a run, not to compare encoders: use `dermeval` for that."
    return [*table, "", *lines, *mix, rank, closing, "", *_tone_scores(data, moments)]


def _tone_scores(data: TrainingData, moments: dict[str, dict[str, float]]) -> list[str]:
    """The kNN score within each group of skin types, with the images and patients that it rests on."""
    rows = []
    for online in data.online:
        name, groups = online.dataset.name, online.dataset.column("group_id")[online.score]
        for tone, inside in scored_tones(online, least=1).items():
            found = [scores.get(f"{BY_TONE}/{name}/{tone}") for scores in moments.values()]
            classes = len(set(online.labels[online.score[inside]]))
            counts = [len(inside), len(set(groups[inside])), f"{classes} of {len(online.classes)}"]
            rows.append([name, tone, *counts, *("not scored" if one is None else f"{one:.3f}" for one in found)])
    if not rows:
        return ["Scores by skin type: none, as the skin type of no scored image is recorded."]
    return [
        "By skin type (Fitzpatrick), kNN balanced accuracy over the classes that a group has:",
        "",
        *_table(["", "type", "images", "patients", "classes", *moments], rows),
        "",
        f"Patients are lesions or images where patients are unknown. Groups of fewer than {LEAST_PATIENTS}, or of one "
        "class, are not scored. Groups with other classes do not compare. `dermeval` gives intervals.",
    ]


def _table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def _tone_lines(data: TrainingData, times_seen: np.ndarray) -> list[str]:
    """Training images per tone group and Fitzpatrick type, and what is missing in plain words."""
    counts, types, patients = {}, np.zeros(len(TYPES), int), np.zeros(len(TONES), int)
    seen = np.split(times_seen > 0, np.cumsum([len(rows) for rows in data.rows])[:-1])
    for dataset, chosen, trained in zip(data.datasets, data.rows, seen, strict=True):
        rows = chosen[trained]
        groups = pd.Series(dataset.column("tone_group")[rows]).value_counts().reindex(TONES, fill_value=0)
        counts[dataset.name] = [*groups.astype(int), len(rows) - int(groups.sum())]
        shown = pd.DataFrame({"tone": dataset.column("tone_group")[rows], "group": dataset.column("group_id")[rows]})
        patients += shown.groupby("tone")["group"].nunique().reindex(TONES, fill_value=0).to_numpy()
        numbers = pd.Series(dataset.column("fitzpatrick")[rows]).dropna().astype(int)
        types += np.bincount(numbers, minlength=len(TYPES) + 1)[1:]
    total = np.sum(list(counts.values()), axis=0)
    table = _table(
        ["training images", *TONES, "unknown"], [[name, *row] for name, row in (*counts.items(), ("all", total))]
    )
    by_type = ", ".join(f"{name} {count}" for name, count in zip(TYPES, types, strict=True))
    by_tone = ", ".join(f"{name} {count}" for name, count in zip(TONES, patients, strict=True))
    return [
        *table,
        "",
        f"Images by Fitzpatrick type, where it is recorded: {by_type}. Patients (lesions or images where patients are "
        f"unknown): {by_tone}.",
        "",
        _missing(total),
    ]


def _missing(total: np.ndarray) -> str:
    """``total``: images of each of `TONES`, and of unknown tone."""
    known, everything = int(total[:-1].sum()), int(total.sum())
    if not known:
        return (
            f"The skin type of none of the {everything:,} training images is recorded: nothing can be said about any "
            "type until it is measured on labelled images."
        )
    absent = [tone for tone, count in zip(TONES, total[:-1], strict=True) if not count]
    rare = [tone for tone, count in zip(TONES, total[:-1], strict=True) if 0 < count < RARE * known]
    words = [f"The skin type of {total[-1] / everything:.0%} of the training images is not recorded."]
    if absent:
        words.append(f"No image is known to show type {' or '.join(absent)}.")
    if rare:
        words.append(f"Type {' and '.join(rare)} is rare (under {RARE:.0%} of the known).")
    return " ".join(words) + " Expect worse features where images are missing, and measure before use."
