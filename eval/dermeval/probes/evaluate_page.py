"""The result of a protocol as text, as a table of groups, and as an HTML page."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from dermeval.pages import plots
from dermeval.probes import contamination
from dermeval.probes.groups import RARE
from dermeval.probes.intervals import show
from dermeval.probes.results import foot
from dermssl import page

if TYPE_CHECKING:
    from dermeval.probes.evaluate import ProtocolResult

SHOWN = (
    "balanced_accuracy",
    "macro_f1",
    "positive_f1",
    "positive_precision",
    "positive_recall",
    "macro_auroc",
    "auroc",
    "sensitivity_at_90_specificity",
)
SHIFTED = ("balanced_accuracy", "macro_f1", "positive_f1")


def text_page(result: "ProtocolResult") -> str:
    """All experiments as aligned tables, then groups, notes and licences."""
    text = _lead(result)
    for heading, table in _tables(result):
        text += ["", heading, table.to_string(index=False)]
    return "\n".join([*text, *foot(result, _notes(result))])


def html_page(result: "ProtocolResult") -> str:
    """The same tables as one page, with plots of the scores per group."""
    sections = []
    for heading, table in _tables(result):
        rows = table.astype(str).to_numpy().tolist()
        figure = _figure(result, heading)
        sections.append(page.Section(heading, (), list(table.columns), rows, [figure] if figure else []))
    title, notes, foot_lines = f"Protocol {result.protocol}", _notes(result), foot(result)
    return page.render(title=title, lead=_lead(result), sections=sections, notes=notes, foot=foot_lines)


def groups_table(result: "ProtocolResult") -> pd.DataFrame:
    """One row per experiment, level, attribute, value and score: the long form behind the group tables."""
    rows = []
    for entry, attribute, level, group in _each_group(result):
        keys = {key: entry[key] for key in ("target", "probe", "experiment")}
        keys |= {"level": level, "attribute": attribute}
        keys |= {key: group[key] for key in ("value", "patients", "rows", "classes", "status")}
        scored = {name: value for name, value in group.items() if isinstance(value, dict)}
        for name, value in (scored or {"": {"value": None, "low": None, "high": None}}).items():
            rows.append(keys | {"score": name, "estimate": value["value"], "low": value["low"], "high": value["high"]})
    return pd.DataFrame(rows)


def _each_group(result: "ProtocolResult") -> list[tuple[dict[str, Any], str, str, dict[str, Any]]]:
    return [
        (entry, attribute, level, group)
        for entry in result.experiments
        for attribute, levels in entry.get("groups", {}).items()
        for level, scored in levels.items()
        for group in scored["groups"]
    ]


def _lead(result: "ProtocolResult") -> list[str]:
    encoder, group = result.encoder, result.unit
    return [
        f"protocol {result.protocol} on {', '.join(entry['name'] for entry in result.datasets)}",
        f"encoder: {encoder['path']} (fingerprint {encoder['fingerprint'][:12]})",
        f"95% intervals from {result.draws} draws of {group}s",
    ]


def _notes(result: "ProtocolResult") -> list[str]:
    own = [
        f"{entry['target']}, {entry['experiment']}: {note}" for entry in result.experiments for note in entry["notes"]
    ]
    return list(dict.fromkeys([*result.notes, *own]))


def _tables(result: "ProtocolResult") -> list[tuple[str, pd.DataFrame]]:
    """Headings and tables in reading order: scores, generalisation, groups."""
    tables = []
    for target in dict.fromkeys(entry["target"] for entry in result.experiments):
        entries = [entry for entry in result.experiments if entry["target"] == target]
        plain = [entry for entry in entries if "groups" in entry]
        shifted = [entry for entry in entries if "against_size_matched" in entry]
        tables.append((f"{target}: scores", pd.DataFrame(_score_rows(plain)).fillna("")))
        if shifted:
            tables.append((f"{target}: groups unseen in training", pd.DataFrame(_shift_rows(shifted))))
        seen = [entry for entry in plain if entry["contamination"].get("sides")]
        if seen:
            tables.append((f"{target}: images clean of pretraining, and contaminated", pd.DataFrame(_seen_rows(seen))))
        for entry in plain:
            for attribute, levels in entry["groups"].items():
                rows = pd.DataFrame(_group_rows(levels, result.unit)).fillna("")
                tables.append((_group_heading(entry, attribute), rows))
    return tables


def _group_heading(entry: dict[str, Any], attribute: str) -> str:
    return f"{entry['target']} by {attribute}: {entry['probe']}, {entry['experiment']}"


def _score_rows(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for entry in entries:
        for level, scored in entry["levels"].items():
            keys = {
                "experiment": entry["experiment"],
                "probe": entry["probe"],
                "level": level,
                "scored": scored["rows"],
            }
            rows.append(keys | _shown(scored["scores"]))
            if "by_majority" in scored:
                rows.append(keys | {"level": f"{level}, majority vote"} | _shown(scored["by_majority"]))
    return rows


def _shown(scores: dict[str, Any]) -> dict[str, str]:
    return {name: show(scores[name]) for name in SHOWN if name in scores}


def _seen_rows(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"experiment": entry["experiment"], "probe": entry["probe"]} | row
        for entry in entries
        for row in contamination.table(entry["contamination"])
    ]


def _shift_rows(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for entry in entries:
        for level, scores in entry["against_size_matched"].items():
            for name in (name for name in SHIFTED if name in scores and level in entry["levels"]):
                difference = scores[name]["difference"]
                rows.append(
                    {
                        "experiment": entry["experiment"],
                        "probe": entry["probe"],
                        "level": level,
                        "score": name,
                        "without": show(entry["levels"][level]["scores"][name]),
                        "size-matched": show(scores[name]["control"]),
                        "difference": show(difference, "+.3f"),
                        "p": f"{difference['p']:.3f}",
                    }
                )
    return rows


def _group_rows(levels: dict[str, Any], unit: str) -> list[dict[str, Any]]:
    rows = []
    for level, scored in levels.items():
        for group in scored["groups"]:
            row = {"group": group["value"], "level": level, f"{unit}s": group["patients"], "scored": group["rows"]}
            row["classes"] = group["classes"]
            for name in ("balanced_accuracy", "macro_f1"):
                row[name] = show(group[name]) if name in group else group["status"]
            if group.get("rare_classes") and group["status"] == "scored":
                row["interval"] = f"too narrow: {group['rare_classes']} classes with under {RARE} {unit}s"
            rows.append(row)
        if scored["gap"]:
            gap = scored["gap"]
            most = max(group["classes"] for group in scored["groups"])
            left = [g["value"] for g in scored["groups"] if g["status"] != "scored" or g["classes"] < most]
            name = f"worst {gap['worst']}, best {gap['best']}" + (f", not ranked {', '.join(left)}" if left else "")
            rows.append(
                {"group": name, "level": level, f"{unit}s": "", "scored": ""}
                | {"classes": "", "balanced_accuracy": f"gap {show(gap)}", "macro_f1": ""}
            )
    return rows


def _figure(result: "ProtocolResult", heading: str) -> str | None:
    """Balanced accuracy per group at both levels, for the tables that are about groups."""
    for entry in result.experiments:
        for attribute, levels in entry.get("groups", {}).items():
            if _group_heading(entry, attribute) != heading:
                continue
            panels = []
            for level, scored in levels.items():
                bars = [
                    plots.Bar(group["value"], *(group["balanced_accuracy"][key] for key in ("value", "low", "high")))
                    for group in scored["groups"]
                    if group["status"] == "scored"
                ]
                panels.append((f"balanced accuracy, {level} level", bars))
            same = [bar.label for bar in panels[0][1]] == [bar.label for bar in panels[-1][1]]
            return plots.interval_plot(panels if same else panels[:1], same_axis=True) if panels[0][1] else None
    return None
