"""``dermssl describe``: counts images, patients and labels of a dataset folder in the tables of a data paper.

``--out`` gets one CSV per table, ``tables.json``, ``plots.png`` and ``describe.html``, a page of all tables and plots
that needs no other file and shows no image of the data set.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dermssl import licences
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.dataset.dataset import Dataset, open_dataset
from dermssl.describe.options import DescribeOptions
from dermssl.describe.tables import all_tables
from dermssl.files import write_csv, write_json, write_text
from dermssl.page import Section, render
from dermssl.paths import json_object, require_new_folder

DPI = 110


def describe(options: DescribeOptions) -> Report:
    """Describe one dataset folder; see `DescribeOptions`."""
    dataset = open_dataset(options.folder)
    out = Path(options.out) if options.out else None
    if out:
        of_tables = file_names(json_object(out / "tables.json", "tables")).values()
        written = ["tables.json", "plots.png", "describe.html", *of_tables]
        require_new_folder(out, options.overwrite, written, [options.folder], key="fingerprint")
    tables = all_tables(dataset.frame(), dataset.targets, dataset.info["group"])
    known = {name: number for name, number in dataset.info["counts"].items() if number and name != "groups"}
    lead = f"{dataset.name}: " + ", ".join(f"{number:,} {name}" for name, number in known.items())
    remarks = ["SYNTHETIC data, made by dermssl: no finding about patients."] * dataset.info["synthetic"]
    remarks += ["No patient key: patient leakage cannot be ruled out."] * (not dataset.info["patient_key"])
    notice = licences.notice_lines([dataset.licence])
    text = [dataset.info["title"], lead, *remarks]
    for name, table in tables.items():
        text += ["", name, table.to_string()]
    text += ["", *notice]
    data = {"dataset": dataset.name, "counts": dataset.info["counts"], "licence": dataset.licence}
    data |= {"fingerprint": dataset.fingerprint, "tables": {name: _records(table) for name, table in tables.items()}}
    if out:
        _write(out, dataset, tables, data, {"lead": [lead], "notes": remarks, "foot": notice})
        text += ["", f"page, plots and tables: {out}"]
    return Report("\n".join(text), data)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    named = table.set_axis(table.index.astype(str)).rename_axis(table.index.name or "what")
    return json.loads(named.reset_index().to_json(orient="records"))


def file_name(title: str) -> str:
    """``patients per centre and condition`` -> ``patients_per_centre_and_condition.csv``."""
    return re.sub(r"\W+", "_", title.lower()).strip("_") + ".csv"


def file_names(titles: Iterable[str]) -> dict[str, str]:
    """The CSV of each table by its title. Those of targets such as ``dx`` and ``DX`` are numbered."""
    found: dict[str, str] = {}
    for title in titles:
        name = file_name(title)
        times = sum(file_name(other) == name for other in found)
        found[title] = f"{name.removesuffix('.csv')}_{times + 1}.csv" if times else name
    return found


def _write(
    out: Path, dataset: Dataset, tables: dict[str, pd.DataFrame], data: dict[str, Any], page: dict[str, Any]
) -> None:
    # Importing matplotlib takes longer than counting the tables.
    from matplotlib import rc_context

    from dermssl.describe.plots import draw_page
    from dermssl.plotting import PLOT_STYLE, as_svg

    title = dataset.info["title"]
    figure = draw_page(title + " (SYNTHETIC)" * dataset.info["synthetic"], tables)
    sections = [Section("Plots of the tables below", figures=[as_svg(figure)])]
    for name, table in tables.items():
        columns = [str(table.index.name or ""), *map(str, table.columns)]
        rows = [[str(label), *(f"{value:g}" for value in row)] for label, row in table.iterrows()]
        sections.append(Section(name, columns=columns, rows=rows))
    with atomic_folder(out) as folder:
        for file, table in zip(file_names(tables).values(), tables.values(), strict=True):
            write_csv(folder / file, table.reset_index())
        write_json(folder / "tables.json", data)
        with rc_context(PLOT_STYLE):
            figure.savefig(folder / "plots.png", dpi=DPI, facecolor="white")
        write_text(folder / "describe.html", render(title=title, sections=sections, **page))
