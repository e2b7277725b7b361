"""What a run writes: states, encoders, ledger, model card, status, and the closing report."""

import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dermssl import licences
from dermssl.backbone.encoder_folder import write_encoder
from dermssl.backbone.pretrained import LEDGER
from dermssl.commandline import Report
from dermssl.errors import HealthStop, InputError, Preempted, counted
from dermssl.files import read_parquet, write_parquet
from dermssl.training import states
from dermssl.training.pool import join_ledgers
from dermssl.training.progress import JOULES_PER_KWH, hardware
from dermssl.training.run_folder import START_LEDGER, read_status, write_status
from dermssl.training.setup import Run
from dermssl.training.watching.card import write_card
from dermssl.training.watching.online import headline


def save(run: Run) -> None:
    """Write a resumable state on rank 0, while the other ranks wait."""
    if run.main:
        record = run.progress.record() | run.reproducibility
        record |= {"data": run.fingerprints, "normalisation": run.normalisation._asdict()}
        states.save_state(run.folder / "state", run.method, run.optimizer, record, run.options.training.keep_states)
        if read_status(run.folder) == "running":  # keep the "failed" of another rank
            write_status(run.folder, "running", run.progress.step, run.steps)
    run.accelerator.wait_for_everyone()


def keep_best(run: Run) -> None:
    """Write ``best/`` if the present encoder is the best. Save the state before (at step 0 there is none).

    If the run is killed between the two, it knows from the state that ``best/`` is missing, and writes it.
    """
    if run.main and run.progress.best and run.progress.best["step"] == run.progress.step:
        export_encoder(run, run.folder / "best")


def export_encoder(run: Run, folder: Path) -> None:
    """Write the present encoder as a timm folder."""
    method, name, step = run.options.method, run.options.model.backbone, run.progress.step
    facts: dict[str, Any] = {"method": method, "step": step, "splits": run.splits, "data": run.fingerprints}
    facts |= {"unrecorded": run.unrecorded} if run.unrecorded else {}
    tag = f"dermssl_{method}_step{step}"
    write_encoder(run.method.encoder(), folder, name, run.preprocessing, run.notices, tag, facts)


def finish_run(run: Run) -> None:
    """Write encoder, ledger, model card and status."""
    export_encoder(run, run.folder / "encoder")
    write_record(run)
    write_status(run.folder, "done", run.progress.step, run.steps)


def write_record(run: Run) -> None:
    """Write the ledger, with the images of the start, and the model card. A stopped run needs them for `best/`."""
    times_seen, before = run.sampler.times_seen(run.progress.step), run.folder / START_LEDGER
    if run.pool.partners:
        times_seen = run.pool.partners.shown(times_seen)
    ledgers = [run.data.ledger(times_seen)]
    if before.is_file():
        ledgers.append(read_parquet(before, "dermssl pretrain"))
    write_parquet(run.folder / LEDGER, join_ledgers(ledgers))
    write_card(run.folder, run.options, run.data, run.notices, times_seen, run_facts(run))


def note_end(run: Run, error: BaseException) -> None:
    """Record in ``status.json`` what ended the run: a stop of all ranks, or the first failure of a rank."""
    if isinstance(error, (HealthStop, Preempted)):
        if run.main:
            status = "stopped" if isinstance(error, HealthStop) else "preempted"
            write_status(run.folder, status, run.progress.step, run.steps, str(error))
            if status == "stopped":  # last, as a launcher kills this rank 30 s after the others have left
                write_record(run)
        return
    ranks, rank = run.accelerator.num_processes, run.accelerator.process_index
    where = f"rank {rank} of {ranks}: " if ranks > 1 else ""
    with suppress(OSError, InputError):  # so that the error itself is reported
        if read_status(run.folder) != "failed":
            write_status(run.folder, "failed", run.progress.step, run.steps, f"{where}{type(error).__name__}: {error}")


def leave_group(run: Run, stop: BaseException | None = None) -> None:
    """Leave the process group, which all ranks do. Free the wrapper that averages gradients first.

    PyTorch frees the wrapper while it holds Python's lock. If the wrapper held the last reference to the group, it
    would wait for the threads of the group; one of these may wait for the lock, and the rank would never end.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if stop is not None:
        traceback.clear_frames(stop.__traceback__)
    run.accelerator.free_memory()
    torch.distributed.destroy_process_group()


def run_facts(run: Run) -> dict[str, Any]:
    """Length, data, hardware, time, energy and scores, for the model card and the report."""
    device, progress = run.accelerator.device, run.progress
    joules = progress.joules if device.type == "cuda" else None
    return {
        "steps": progress.step,
        "planned_steps": run.steps,
        "images": run.sampler.total,
        "splits": run.splits,
        "unrecorded": run.unrecorded,
        "seconds": round(progress.seconds, 1),
        "ranks": run.accelerator.num_processes,
        "device": str(device),
        "hardware": hardware(device),
        "precision": run.precision,
        "energy_kwh": round(joules / JOULES_PER_KWH, 4) if joules else None,
        **{name: getattr(progress, name) for name in ("baseline", "last", "best")},
        "skipped_steps": progress.health.skipped,
    }


def report(run: Run, word: str) -> Report:
    """The closing report of the command."""
    data = run_facts(run)
    text = [
        f"{word}: {run.folder}: {counted(data['steps'], 'step')} in {data['seconds'] / 60:.1f} min "
        f"on {counted(data['ranks'], 'rank')}, {data['device']}, {data['precision']}",
        f"  encoder: {run.folder / 'encoder'}",
    ]
    for name in ("baseline", "best"):
        if data[name]:
            text.append(f"  {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in headline(data[name]).items()))
    return Report("\n".join(text + ["  " + line for line in licences.notice_lines(run.notices)]), data)
