"""``dermssl sources``: the list of known data sets."""

from dataclasses import asdict

from dermssl import licences
from dermssl.commandline import Report
from dermssl.prepare.options import SourcesOptions
from dermssl.prepare.sources import NAMES, get_source, known_overlaps


def sources(_: SourcesOptions) -> Report:
    """List each known data set with licence, units, targets, layout and where to get it."""
    text, data = ["Splits keep each group together; scores count each case once.", ""], []
    for name in NAMES:
        source = get_source(name)
        licence = licences.LICENCES[source.licence]
        overlaps = known_overlaps(name)
        shared = ["its other edition" if other == name else other for other in overlaps]
        text += [
            f"{name}: {source.title}",
            f"  licence    {licence.name} ({licence.id})",
            *[f"             - {duty}" for duty in licence.duties],
            f"  units      group: {source.group}, case: {source.case}"
            + ("" if source.patient_key else "; no patient key: patient leakage cannot be ruled out"),
            f"  targets    {', '.join(source.targets) or 'found in the labels'}",
            *([f"  overlaps   {', '.join(shared)}"] if shared else []),
            f"  layout     {source.layout}",
            f"  get it     {source.where}",
            f"  cite       {source.citation or '-'}",
            "",
        ]
        entry = {key: getattr(source, key) for key in ("name", "title", "group", "case", "patient_key")}
        entry |= {"licence": licences.notice(name, source.licence, source.citation, synthetic=False)}
        entry |= {"targets": {key: asdict(target) for key, target in source.targets.items()}}
        data.append(entry | {"overlaps": overlaps, "layout": source.layout, "where": source.where})
    text.append(f"Ids of licences, for your own data and weights: {', '.join(licences.LICENCES)}.")
    return Report("\n".join(text), {"sources": data})
