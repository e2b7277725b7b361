"""``MODEL_CARD.md``: what went into an encoder, in the Hugging Face card format."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from dermssl import __version__, licences
from dermssl.files import write_text
from dermssl.training.options import PretrainOptions
from dermssl.training.pool import TrainingData

TONES = ("I-II", "III-IV", "V-VI")


def write_card(
    folder: Path, options: PretrainOptions, data: TrainingData, notices: list[dict], facts: dict[str, Any]
) -> None:
    """Data with licences and attribution, recipe, hardware, time, scores, limits by skin type."""
    commercial = all(entry["commercial"] for entry in notices)
    header = {
        "library_name": "timm",
        "tags": ["dermatology", "self-supervised", options.method],
        "license": "other",
        "license_name": ", ".join(sorted({entry["id"] for entry in notices})),
    }
    parts = [
        "---",
        yaml.safe_dump(header, sort_keys=False).strip(),
        "---",
        f"# {options.method} {options.model.backbone}, trained by dermssl {__version__}",
        "",
        "Features of skin images, learned without labels. Not a medical device; no diagnosis is made from it.",
        "Use: `timm.create_model('local-dir:<this folder>/encoder', pretrained=True, num_classes=0)`",
        "",
        "## Data and licences",
        "" if commercial else "**Non-commercial use only**, because of the data below.",
        *["- " + line if not line.startswith(" ") else "  " + line.strip() for line in licences.lines(notices)],
        "",
        *_warnings(options, data),
        "## Recipe",
        f"{facts['steps']} steps of {options.training.batch} images ({options.training.epochs} epochs of "
        f"{facts['images']} images), seed {options.training.seed}, {facts['precision']} on {facts['ranks']} rank(s) "
        f"({facts['device']}), {facts['seconds'] / 3600:.2f} hours. Full config: `config.yaml`.",
        "",
        "```yaml",
        yaml.safe_dump(dataclasses.asdict(options), sort_keys=False).strip(),
        "```",
        "## Scores",
        "; ".join(f"{name}: {value}" for name, value in (facts["best"] or {}).items()) or "none measured",
        "(online kNN on patients kept out of pretraining; see `metrics.jsonl`)",
        "",
        "## Limits by skin type",
        *_tone_lines(data),
        "",
    ]
    write_text(folder / "MODEL_CARD.md", "\n".join(parts))


def _warnings(options: PretrainOptions, data: TrainingData) -> list[str]:
    lines = []
    if any(dataset.info["synthetic"] for dataset in data.datasets):
        lines += ["**Trained on SYNTHETIC pictures**: for trying the software, not for skin.", ""]
    if options.data.splits == "all":
        lines += ["**Test rows were trained on** (`data.splits all`): scores on those test sets are contaminated.", ""]
    return lines


def _tone_lines(data: TrainingData) -> list[str]:
    counts = dict.fromkeys((*TONES, None), 0)
    for dataset, rows in zip(data.datasets, data.rows, strict=True):
        for tone in dataset.column("tone_group")[rows]:
            counts[tone if tone in counts else None] += 1
    total = sum(counts.values())
    return [
        f"- Fitzpatrick {tone or 'unknown'}: {count} training images ({count / total:.0%})"
        for tone, count in counts.items()
    ] + ["Performance on skin types that are rare here is unknown until measured."]
