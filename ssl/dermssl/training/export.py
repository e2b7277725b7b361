"""``dermssl export``: the encoder of a run as a folder of its own."""

import shutil
from pathlib import Path

from dermssl import backbone, licences
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import atomic_folder, require_folder, require_new_folder
from dermssl.training.options import ExportOptions


def export(options: ExportOptions) -> Report:
    """Copy ``encoder/`` (or ``best/``) with the model card, after checking that the weights load."""
    run = require_folder(Path(options.run), "config.yaml", "dermssl pretrain")
    source = run / ("encoder" if options.which == "last" else "best")
    if not source.is_dir():
        raise InputError(f"{run} has no {source.name}/ yet: let `dermssl pretrain` finish, or choose the other --which")
    out = require_new_folder(Path(options.out), options.overwrite)
    model, config = backbone.load(source)
    with atomic_folder(out) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        if (run / "MODEL_CARD.md").exists():
            shutil.copy(run / "MODEL_CARD.md", temporary / "README.md")
    notices = config["dermssl"]["licences"]
    text = [
        f"{config['architecture']} ({model.num_features} features) -> {out}",
        f'  timm.create_model("local-dir:{out}", pretrained=True, num_classes=0)',
        *["  " + line for line in licences.lines(notices)],
    ]
    return Report("\n".join(text), {"out": str(out), "config": config})
