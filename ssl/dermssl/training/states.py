"""Resumable states: everything that the next step depends on, without pickle, written atomically.

Order, views and drop path are functions of the seed and the step (see ``views.sampler`` and the loop). So a state holds
weights, optimizer moments and counters, but no state of a random generator.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dermssl import log
from dermssl.atomic import atomic_folder
from dermssl.errors import InputError
from dermssl.files import sha256_file, write_json, write_safetensors

MOMENTS = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "LARS": {"momentum_buffer"}}
"""What each optimizer keeps for every parameter that has learned."""
TENSORS = ("model.safetensors", "optimizer.safetensors")
"""The files of a state whose SHA-256 its ``state.json`` records. States of older versions have none."""


def save_state(
    folder: Path, method: nn.Module, optimizer: torch.optim.Optimizer, record: dict[str, Any], keep: int
) -> None:
    """Write ``folder/step_<n>`` (``n`` is ``record["step"]``), and delete all but the ``keep`` newest states.

    States of later steps are deleted too: the run has found them damaged.
    """
    path = folder / f"step_{record['step']:08d}"
    with atomic_folder(path) as temporary:
        write_safetensors(temporary / "model.safetensors", method.state_dict())
        moments = {
            f"{name}|{moment}": torch.as_tensor(value)
            for name, parameter in method.named_parameters()
            for moment, value in optimizer.state.get(parameter, {}).items()
            if value is not None
        }
        write_safetensors(temporary / "optimizer.safetensors", moments)
        hashes = {name: sha256_file(temporary / name) for name in TENSORS}
        write_json(temporary / "state.json", record | {"sha256": hashes})
    states = list_states(folder)
    kept = states[: states.index(path) + 1][-keep:]
    for other in states:
        if other not in kept:
            shutil.rmtree(other)


def list_states(folder: Path) -> list[Path]:
    """Finished states, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


class Saved(NamedTuple):
    """A state: record, weights of the method, and optimizer moments by ``<parameter>|<moment>``."""

    record: dict[str, Any]
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


def newest_state(folder: Path) -> Saved | None:
    """The newest readable state, None without states; damaged ones are named. Raises InputError if none is readable."""
    states = list_states(folder)
    for path in reversed(states):
        try:
            record = _read_record(path)
            weights, moments = (load_file(path / name) for name in TENSORS)
            for name in TENSORS:
                if record.get("sha256", {}).get(name) not in (None, sha256_file(path / name)):
                    raise ValueError(f"{name} was changed after it was written")
            return Saved(record, weights, moments)
        except (OSError, ValueError, SafetensorError) as error:
            log.warning("warning: %s is damaged (%s): the state before it is used", path, error)
    if states:
        raise InputError(f"{folder}: no state can be read: start anew with --overwrite")
    return None


def require_state(run: Path, option: str) -> Saved:
    """The newest state of ``run``; InputError naming the ``option`` that needs one if there is none."""
    saved = newest_state(run / "state")
    if saved is None:
        raise InputError(f"{run} has no state/, which {option} needs: give a run that has one, or leave the option out")
    return saved


def newest_record(folder: Path) -> dict[str, Any] | None:
    """The record of the newest state whose record can be read."""
    for path in reversed(list_states(folder)):
        with suppress(OSError, ValueError):
            return _read_record(path)
    return None


def _read_record(state: Path) -> dict[str, Any]:
    """The ``state.json`` of a state. Raises OSError or ValueError: it is damaged, or lacks what every reader needs."""
    record = json.loads((state / "state.json").read_text(encoding="utf-8"))
    if lost := {"step", "data", "normalisation"} - set(record):
        raise ValueError(f"state.json has no '{min(lost)}'")
    return record


def restore(method: nn.Module, optimizer: torch.optim.Optimizer, saved: Saved) -> None:
    """Load a state into the networks and the optimizer, strictly and bit by bit.

    Raises KeyError, RuntimeError or ValueError: the state does not fit them.
    """
    method.load_state_dict(saved.weights, strict=True)
    parameters = dict(method.named_parameters())
    for key, value in saved.moments.items():
        name, moment = key.rsplit("|", 1)
        parameter, stored = parameters[name], value
        if moment != "step":
            stored = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value)
        optimizer.state[parameter][moment] = stored.to(parameter.device)
    wrong = [set(held) for held in optimizer.state.values() if set(held) != MOMENTS[type(optimizer).__name__]]
    if wrong:
        raise ValueError(f"{type(optimizer).__name__} has other moments than {', '.join(sorted(wrong[0]))}")
