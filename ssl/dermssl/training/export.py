"""``dermssl export``: copies an encoder of a run into a folder of its own."""

import filecmp
import shutil
from pathlib import Path
from typing import Any

from dermssl import licences, log
from dermssl.atomic import atomic_folder
from dermssl.backbone.build import Normalisation, build, width
from dermssl.backbone.embedding import preprocessing_at
from dermssl.backbone.encoder_folder import load_encoder, write_encoder
from dermssl.backbone.pretrained import LEDGER
from dermssl.backbone.weights import load_weights
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import read_json, read_parquet, read_yaml, sha256_file, write_json, write_safetensors, write_text
from dermssl.paths import inside, require_file, require_folder, require_new_folder
from dermssl.training import states
from dermssl.training.networks import network_weights
from dermssl.training.options import ExportOptions
from dermssl.training.pool import COLUMNS
from dermssl.training.run_folder import CARD, holds_run
from dermssl.training.watching.card import card_of_export

FOLDERS = {"last": "encoder", "best": "best"}
WRITTEN = ("config.json", "model.safetensors", "heads.safetensors", "README.md", LEDGER)


def export(options: ExportOptions) -> Report:
    """Write the chosen encoder with the model card and the ledger, after checking that its weights load.

    The ledger (ids and hashes of the training images) lets `dermeval` find test images that the encoder was trained on.
    If a licence forbids to pass the data on, or to re-link records, the ledger is not copied, because the folder may be
    shared: ``config.json`` holds its path instead.
    """
    run = require_folder(Path(options.run), "config.yaml", "dermssl pretrain")
    out = require_new_folder(Path(options.out), options.overwrite, WRITTEN, [run], key="dermssl")
    if holds_run(out.absolute().parent):
        raise InputError(f"{out} lies in a run folder, which `dermssl pretrain` writes: choose another --out")
    with atomic_folder(out) as temporary:
        name = FOLDERS.get(options.which)
        if name is None:
            _write_network(run, options.which, temporary)
        elif not (run / name).is_dir():
            raise InputError(f"{run} has no {name}/ yet: let `dermssl pretrain` finish, or choose another --which")
        else:
            load_encoder(run / name)  # so that an error about damaged weights names the run
            for part in ("config.json", "model.safetensors"):
                shutil.copyfile(require_file(inside(run, f"{name}/{part}"), "dermssl pretrain"), temporary / part)
            if not filecmp.cmp(run / name / "config.json", temporary / "config.json", shallow=False):
                raise InputError(f"{run / name} was replaced while it was copied: give the same command again")
        if options.heads:
            weights = states.require_state(run, "--heads").weights
            heads = {key: value for key, value in weights.items() if key.split(".")[0].endswith("head")}
            write_safetensors(temporary / "heads.safetensors", heads)
        model, config = load_encoder(temporary)
        facts = config["dermssl"]
        if (run / CARD).exists():
            card = inside(run, CARD).read_text(encoding="utf-8")
            write_text(temporary / "README.md", card_of_export(card, options.which, facts["step"]))
        if not (run / LEDGER).exists():
            log.warning("warning: %s has no %s: its training images will not be known later", run, LEDGER)
        elif not licences.restricted(facts["licences"]):
            read_parquet(inside(run, LEDGER), "dermssl pretrain", COLUMNS)  # a damaged one would be found too late
            shutil.copyfile(run / LEDGER, temporary / LEDGER)
        else:
            facts["ledger"], facts["ledger_sha256"] = str((run / LEDGER).resolve()), sha256_file(run / LEDGER)
            write_json(temporary / "config.json", config)
    text = [
        f"{config['architecture']} ({width(model)} features) -> {out}",
        f'  timm.create_model("local-dir:{out}", pretrained=True, num_classes=0)',
        *["  " + line for line in licences.notice_lines(facts["licences"])],
    ]
    return Report("\n".join(text), {"out": str(out), "config": config})


def _write_network(run: Path, which: str, folder: Path) -> None:
    """Write the backbone ``which`` of the newest state, with the licences and data that the run's ``best/`` records."""
    saved, config = states.require_state(run, f"--which {which}"), read_yaml(run / "config.yaml")
    name, size = config["model"]["backbone"], config["views"]["global_size"]
    model = build(name, size, patch_size=config["model"].get("patch_size"))
    load_weights(model, network_weights(run, saved.weights, which))
    facts: dict[str, Any] = read_json(run / "best" / "config.json", "dermssl pretrain")["dermssl"]
    facts |= {"step": saved.record["step"], "network": which}
    notices = facts.pop("licences")
    tag = f"dermssl_{facts['method']}_{which}_step{facts['step']}"
    preprocessing = preprocessing_at(size, Normalisation.of(saved.record["normalisation"]))
    write_encoder(model, folder, name, preprocessing, notices, tag, facts)
