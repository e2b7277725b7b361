"""What a run leaves behind: encoder, ledger, model card, and the closing report."""

from pathlib import Path
from typing import Any

from dermssl import licences
from dermssl.backbone.export import write_encoder
from dermssl.commandline import Report
from dermssl.files import write_parquet
from dermssl.training.run import Run
from dermssl.training.run_folder import write_status
from dermssl.training.watching.card import write_card


def export_encoder(run: Run, folder: Path) -> None:
    """The encoder as it stands, as a timm folder."""
    options = run.options
    tag = f"dermssl_{options.method}_step{run.step}"
    training = {
        "method": options.method,
        "step": run.step,
        "splits": options.data.splits,
        "data": {dataset.name: dataset.fingerprint for dataset in run.data.datasets},
    }
    size, name = options.views.global_size, options.model.backbone
    write_encoder(run.method.encoder(), folder, name, size, run.notices, tag, training)


def keep_best(run: Run) -> None:
    """Write ``best/`` where the encoder as it stands is the best; its score must be in the newest state by then.

    So a run that was killed between the two can make up for it when it goes on. An untrained network has no state.
    """
    if run.best and run.best["step"] == run.step:
        export_encoder(run, run.folder / "best")


def finish(run: Run) -> None:
    """Encoder, ledger, model card, status."""
    export_encoder(run, run.folder / "encoder")
    record(run)
    write_status(run.folder, "done", run.step, run.steps)


def record(run: Run) -> None:
    """Ledger and model card of what was trained so far; `best/` of a run that was stopped needs them too."""
    times_seen = run.sampler.times_seen(run.step)
    write_parquet(run.folder / "ledger.parquet", run.data.ledger(times_seen))
    write_card(run.folder, run.options, run.data, run.notices, times_seen, facts(run))


def facts(run: Run) -> dict[str, Any]:
    """Length, hardware, time, energy and scores, for card and report."""
    return {
        "steps": run.step,
        "planned_steps": run.steps,
        "images": run.sampler.total,
        "seconds": round(run.seconds, 1),
        "ranks": run.accelerator.num_processes,
        "device": str(run.accelerator.device),
        "hardware": run.hardware,
        "precision": run.precision,
        "energy": run.energy.report(),
        "baseline": run.baseline,
        "last": run.last,
        "best": run.best,
        "skipped_steps": run.health.skipped,
    }


def report(run: Run, word: str) -> Report:
    """What the command prints at the end."""
    data = facts(run)
    text = [
        f"{word}: {run.folder}: {data['steps']} steps in {data['seconds'] / 60:.1f} min "
        f"on {data['ranks']} rank(s), {data['device']}, {data['precision']}",
        f"  encoder: {run.folder / 'encoder'}",
    ]
    for name in ("baseline", "best"):
        if data[name]:
            text.append(f"  {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in data[name].items()))
    return Report("\n".join(text + ["  " + line for line in licences.lines(run.notices)]), data)
