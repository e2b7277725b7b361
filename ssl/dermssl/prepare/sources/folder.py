"""Any folder of images: class folders give labels; folders called train, val and test give a split."""

import re

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.match import common_start
from dermssl.prepare.problems import count_problems
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.values import SPLIT


def read(raw: RawFolder) -> Rows:
    """Images at any depth, with labels where each lies in one of two or more class folders.

    A folder that holds all the others is passed over. ``train/CLASS`` and ``CLASS/train`` give the split too.
    """
    files = raw.images
    if not files:
        found = "; ".join(count_problems(raw.problems))
        raise InputError(
            f"{raw.root} holds no image files (.jpg, .png, ...): give the folder that does with --root. {found}"
        )
    notes: list[str] = []
    if raw.tables:
        notes.append(f"images alone; the source 'folder' reads no table ({', '.join(raw.tables[:3])})")
    folders = _below_wrapper([file.split("/")[:-1] for file in files], notes)
    for depth in (0, 1):
        sides = [_side(path[depth]) if len(path) > depth else None for path in folders]
        if None not in sides and len(set(sides)) > 1:
            notes.append("the split is read from the folders " + ", ".join(sorted({path[depth] for path in folders})))
            folders = _below_wrapper([path[:depth] + path[depth + 1 :] for path in folders], notes)
            break
    else:
        sides = [None] * len(files)
    spelled: dict[str, str] = {}
    labels = [spelled.setdefault(path[0].casefold(), path[0]) if path else None for path in folders]
    frame = pd.DataFrame({"file": files, "label": labels, "split": sides}, dtype=object)
    classes = tuple(sorted(spelled.values()))
    if None in labels and classes:
        loose = files[labels.index(None)]
        notes.append(
            f"no labels are read from the folders, as {labels.count(None)} images lie in none, such as {loose}"
        )
    if None in labels or len(classes) < 2:
        return Rows(frame.drop(columns="label"), notes=notes)
    notes.append(f"the target label is read from the folders {', '.join(classes[:6])}" + ", ..." * (len(classes) > 6))
    return Rows(frame, notes=notes, targets={"label": Target("label", classes)})


def _below_wrapper(folders: list[list[str]], notes: list[str]) -> list[list[str]]:
    """Paths of folders without those that all images lie in."""
    wrapper = common_start(folders)
    if wrapper and any(len(path) > len(wrapper) for path in folders):
        notes.append(f"all images lie in the folder {'/'.join(wrapper)}, which is passed over")
    return [path[len(wrapper) :] for path in folders]


def _side(folder: str) -> str | None:
    """``train``, ``val`` or ``test`` for a folder called so, also ``training_set``, ``1_train`` and the like."""
    return SPLIT.get(re.sub(r"^\d+[ ._-]*|[ _-]?(set|data|images|imgs|split)?[ _-]?\d*$", "", folder.lower()))


SOURCE = Source(
    name="folder",
    title="Any folder of images",
    licence="unknown",
    citation="",
    where="your disk",
    layout="images at any depth; class folders (CLASS/*.jpg) give the target `label`, train/ and test/ the split",
    group="image",
    case="image",
    reader=read,
    patient_key=False,
)
