"""The ways a command ends early: the exit code of each, and how it is told in one line."""

import contextlib
import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable

DISK_TROUBLE = {
    errno.ENOSPC: "free some space; what was written before is kept, and the same command goes on",
    errno.EDQUOT: "free some of your quota; what was written before is kept, and the same command goes on",
    errno.EFBIG: "the file system takes no file of this size: choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that you may read and write",
    errno.EPERM: "choose a folder that you may read and write",
    errno.EISDIR: "give the path of a file",
    errno.ENOTDIR: "give a path whose folders are folders",
    errno.ELOOP: "its links lead in a circle: give another path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENXIO: "give the path of an ordinary file",
}
MEMORY_TROUBLE = (
    "give a smaller batch; `dermssl pretrain` does the same batch in parts with training.accumulation, and needs less "
    "with model.gradient_checkpointing"
)


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: what, where, and the remedy."""

    exit_code = 2


class HealthStop(Exception):
    """The health check ended a pretraining run (collapse, divergence, no learning)."""

    exit_code = 3


class Preempted(Exception):
    """The run was asked to leave the machine (SIGTERM) and has saved its state."""

    exit_code = 75


class WorkerDied(Exception):
    """A data worker was killed or had no memory left; the message is one line."""


class Interrupted(Exception):
    """A signal came while a batch was waited for."""


def plain_text(text: str) -> str:
    """``text`` without control characters, which names in other people's data may hold and a terminal would obey."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def shortened(text: object, most: int = 300) -> str:
    """``text`` in one line of at most ``most`` characters; of an error without words its type."""
    line = plain_text(" ".join(str(text).split()))
    if not line and isinstance(text, BaseException):
        return type(text).__name__
    return line if len(line) <= most else line[: most - 1] + "…"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The tail of an error about an unknown ``name``: the nearest valid one, else all of them."""
    choices = sorted(valid)
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower()[:100], list(lowered), n=1, cutoff=0.6)
    if close:
        return f"did you mean '{lowered[close[0]]}'?"
    if not choices:
        return "there are none to choose from"
    return shortened("choose from: " + ", ".join(choices))


def tell(program: str, error: BaseException) -> int:
    """Print why ``program`` ends, and return its exit code (2 bad input, 3 health, 75 pre-empted, 1 else).

    A rank that fails alone does not return from here: see `_leave`.
    """
    if isinstance(error, (InputError, HealthStop, Preempted)):
        # Ranks of one machine meet the same trouble, so the first tells it; other machines may have their own.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{program}: {shortened(error, 2000)}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        sys.stderr.close()
    elif isinstance(error, WorkerDied):
        print(f"{program}: {shortened(error, 2000)}", file=sys.stderr)
    elif isinstance(error, (KeyboardInterrupt, Interrupted)):
        print(f"{program}: interrupted: earlier outputs are as they were; give the same command again", file=sys.stderr)
    elif told := _in_one_line(error):
        print(f"{program}: {told}", file=sys.stderr)
        return _leave(InputError.exit_code)
    else:
        traceback.print_exception(error)
    return _leave(1)


def _in_one_line(error: BaseException) -> str | None:
    """What happened and the remedy, where a disk or a device's memory is full and a traceback would say no more."""
    if isinstance(error, OSError) and (error.errno in DISK_TROUBLE or (error.errno and error.filename)):
        remedy = DISK_TROUBLE.get(error.errno, "choose another path")
        return shortened(f"{error.filename or 'disk'}: {error.strerror}: {remedy}", 2000)
    if isinstance(error, (OSError, RuntimeError)) and re.search(r"No space left|requested and \d+ written", str(error)):
        return f"disk: {os.strerror(errno.ENOSPC)}: {DISK_TROUBLE[errno.ENOSPC]}"
    if isinstance(error, (RuntimeError, ValueError)) and str(error).startswith(("Symlink loop", "embedded null byte")):
        return f"a path cannot be used ({shortened(error)}): give another"
    if isinstance(error, MemoryError):
        return f"memory is full ({shortened(error)}): {MEMORY_TROUBLE}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, known by name as torch is not imported here
        what = ". ".join(str(error).split(". ")[:2])
        return f"{what}: {MEMORY_TROUBLE}"
    return None


def _leave(code: int) -> int:
    """The exit code of a failure that other ranks do not share. Where there are others, the process ends here.

    Leaving in order would wait for them (NCCL tears down together) while they wait for this rank in their next
    exchange: the launcher would never hear of the failure.
    """
    distributed = sys.modules.get("torch.distributed")  # not imported here: --help must be quick
    if distributed and distributed.is_available() and distributed.is_initialized():
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)
    return code
