"""Files that are byte for byte the same: one image is never counted twice, nor put into two splits."""

from pathlib import Path

import pandas as pd

from dermssl.prepare.problems import Problem
from dermssl.prepare.raw import RawFolder


def settle_copies(frame: pd.DataFrame, raw: RawFolder) -> tuple[pd.DataFrame, list[Problem]]:
    """Byte-identical files: no image lies in two splits, and copies of one name in two folders are one image.

    Copies that differ in their labels or ids are kept; the column ``picture``, the same for all of them, joins them in
    one group. Of copies in two splits those in test stay, else those in val.
    """
    problems, left_out, picture = [], [], {}
    rows = frame.set_index("file")
    for files in raw.copies(frame["file"]):
        sides = {file: rows["split"][file] for file in files} if "split" in rows else {}
        strictest = next((side for side in ("test", "val") if side in sides.values()), None)
        facts = {file: (Path(file).name.casefold(), *map(str, rows.loc[file])) for file in files}
        kept: dict[tuple, str] = {}
        for file in sorted(files, key=lambda file: sides.get(file) != strictest):
            if strictest and sides[file] != strictest:
                original, action = next(iter(kept.values())), f"left out, as the other lies in {strictest}"
            elif facts[file] in kept:
                original, action = kept[facts[file]], "one image kept"
            else:
                original, action = next(iter(kept.values()), file), "kept in one group"
                kept[facts[file]] = file
                picture[file] = files[0]
            if original != file:
                problems.append(Problem(file, f"byte-identical copy: {original}", action))
            if action != "kept in one group":
                left_out.append(file)
    frame = frame.assign(picture=frame["file"].map(picture).astype(object))
    return frame[~frame["file"].isin(left_out)].reset_index(drop=True), problems
