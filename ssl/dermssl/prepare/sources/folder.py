"""Any folder of images: class folders give labels; folders called train, val and test give a split."""

import re
import unicodedata

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.match import common_start
from dermssl.prepare.raw import TABLE_SUFFIXES, RawFolder
from dermssl.prepare.source import Rows, Source, count_problems
from dermssl.prepare.values import SPLIT


def read(raw: RawFolder) -> Rows:
    """Read images at any depth. Two or more class folders give the labels if each image lies in one.

    A folder that holds all others is skipped. ``train/CLASS`` and ``CLASS/train`` give the split too.
    """
    files = raw.images
    if not files:
        found = "; ".join(count_problems(raw.problems))
        raise InputError(
            f"{raw.root} holds no image files (.jpg, .png, ...): give the folder that does with --root. {found}"
        )
    notes: list[str] = []
    if tables := raw.near(TABLE_SUFFIXES):
        notes.append(f"images alone; the source 'folder' reads no table ({', '.join(tables[:3])})")
    folders = _below_wrapper([file.split("/")[:-1] for file in files], notes)
    sides: list[str | None] = [None] * len(files)
    for depth in (0, 1):
        here = [_side(path[depth]) if len(path) > depth else None for path in folders]
        if len({*here} - {None}) > 1:
            sides = here
            named = sorted({path[depth] for path, side in zip(folders, sides, strict=True) if side})
            notes.append(f"the split is read from the folders {', '.join(named)}")
            if None in sides:
                notes.append(f"images in no folder of a split, kept without one: {sides.count(None)}")
            folders = _below_wrapper([path[:depth] + path[depth + 1 :] for path in folders], notes)
            break
    spelled: dict[str, str] = {}
    names = [unicodedata.normalize("NFC", path[0]).strip() if path else None for path in folders]
    labels = [name and spelled.setdefault(name.casefold(), name) for name in names]
    frame = pd.DataFrame({"file": files, "label": labels, "split": sides}, dtype=object)
    classes, labelled, side = tuple(sorted(spelled.values())), frame["label"].notna(), frame["split"].fillna("")
    # A competition puts all test images into one folder, so each split must be labelled throughout or not at all.
    mixed = labelled.groupby(side).nunique() > 1
    if mixed.any() and classes:
        loose = frame["file"][~labelled & side.map(mixed)].tolist()
        notes.append(f"no labels are read from the folders, as some images lie in none ({len(loose)}): {loose[0]} ...")
    if mixed.any() or len(classes) < 2:
        return Rows(frame.drop(columns="label"), notes=notes)
    notes.append(f"the target label is read from the folders {', '.join(classes[:6])}" + ", ..." * (len(classes) > 6))
    if not labelled.all():
        notes.append(f"images in no class folder, kept without a label: {(~labelled).sum()}")
    return Rows(frame, notes=notes, targets={"label": Target("label", classes)})


def _below_wrapper(folders: list[list[str]], notes: list[str]) -> list[list[str]]:
    """``folders`` as parts of paths, without the leading parts that all images share."""
    wrapper = common_start(folders)
    if wrapper and any(len(path) > len(wrapper) for path in folders):
        notes.append(f"all images lie in the folder {'/'.join(wrapper)}, which is skipped")
    return [path[len(wrapper) :] for path in folders]


def _side(folder: str) -> str | None:
    """``train``, ``val`` or ``test`` if one of these words is in the folder's name, such as ``X_test``."""
    words = [folder.lower(), *re.findall(r"[^\W\d_]+", folder.lower())]
    found = {SPLIT.get(re.sub(r"(set|data|images|imgs|dir|split)$", "", word)) for word in words} - {None}
    return found.pop() if len(found) == 1 else None


SOURCE = Source(
    name="folder",
    title="Any folder of images",
    licence="unknown",
    citation="",
    where="your disk",
    layout="images at any depth; class folders (CLASS/*.jpg) give the target `label`, train/ and test/ the split",
    group="image",
    reader=read,
)
