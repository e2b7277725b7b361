"""``dermssl export``: the encoder of a run as a folder of its own."""

import logging
import shutil
from pathlib import Path

from dermssl import backbone, licences
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import atomic_folder, require_folder, require_new_folder, write_json
from dermssl.training.options import ExportOptions

log = logging.getLogger("dermssl")


def export(options: ExportOptions) -> Report:
    """Copy ``encoder/`` (or ``best/``) with the model card and the ledger, after checking that the weights load.

    The ledger (ids and hashes of the training images) lets `dermeval` tell clean from contaminated test images. Where
    a licence forbids to pass the data on it is not copied, as the folder may be shared: ``config.json`` points at it.
    """
    run = require_folder(Path(options.run), "config.yaml", "dermssl pretrain")
    source = run / ("encoder" if options.which == "last" else "best")
    if not source.is_dir():
        raise InputError(f"{run} has no {source.name}/ yet: let `dermssl pretrain` finish, or choose the other --which")
    out = require_new_folder(Path(options.out), options.overwrite)
    model, config = backbone.load(source)
    notices = config["dermssl"]["licences"]
    with atomic_folder(out) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        if (run / "MODEL_CARD.md").exists():
            shutil.copy(run / "MODEL_CARD.md", temporary / "README.md")
        if not (run / "ledger.parquet").exists():
            log.warning("warning: %s has no ledger.parquet: what the encoder has seen cannot be told later", run)
        elif all(entry["redistribution"] for entry in notices):
            shutil.copy(run / "ledger.parquet", temporary / "ledger.parquet")
        else:
            config["dermssl"]["ledger"] = str((run / "ledger.parquet").resolve())
            write_json(temporary / "config.json", config)
    text = [
        f"{config['architecture']} ({model.num_features} features) -> {out}",
        f'  timm.create_model("local-dir:{out}", pretrained=True, num_classes=0)',
        *["  " + line for line in licences.lines(notices)],
    ]
    return Report("\n".join(text), {"out": str(out), "config": config})
