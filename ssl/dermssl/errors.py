"""The errors that end a command: their exit codes, and one line of text for each."""

import contextlib
import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
DISK_TROUBLE = DISK_FULL | {errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
FREE_SPACE = "free some space and give the same command again; finished output is kept"
MEMORY_TROUBLE = (
    "give a smaller batch; `dermeval retrieval` needs less with a smaller --k; `dermssl pretrain` can divide a batch "
    "(training.accumulation) or save memory (model.gradient_checkpointing)"
)


class InputError(Exception):
    """An input cannot be used. The message is one line: what is wrong, where, and the remedy."""

    exit_code = 2


class DamagedImage(InputError):
    """A stored image is damaged. Of several ranks, only the one that reads it meets this error."""


class HealthStop(Exception):
    """The health check ended a pretraining run because of collapse, divergence or no learning."""

    exit_code = 3


class Preempted(Exception):
    """SIGTERM ended the run, which has saved its state."""

    exit_code = 75


class WorkerDied(Exception):
    """A data worker was killed or ran out of memory. The message is one line."""


class Interrupted(Exception):
    """A signal came while the loader waited for a batch."""


def plain_text(text: str) -> str:
    """``text`` without control characters: a file name may hold them, and a terminal would execute them."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def shortened(text: object, most: int = 300) -> str:
    """``text`` in one line of at most ``most`` characters; for an error without a message its type."""
    line = plain_text(" ".join(str(text).split()))
    if not line and isinstance(text, BaseException):
        return type(text).__name__
    return line if len(line) <= most else line[: most - 1] + "…"


def counted(number: int, noun: str, nouns: str = "") -> str:
    """``1 image``, ``2 images``; ``nouns`` is an irregular plural."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The end of an error about an unknown ``name``: the nearest of ``valid``, else all of them."""
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

    If only this rank fails, the process may end here, see `_leave`.
    """
    if isinstance(error, (InputError, HealthStop, Preempted)):
        lone = isinstance(error, DamagedImage)
        # The ranks of one machine meet the same error otherwise, so only the first prints it.
        if lone or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{program}: {shortened(error, 2000)}", file=sys.stderr)
        return _leave(error.exit_code) if lone else error.exit_code
    if isinstance(error, BrokenPipeError):
        sys.stderr.close()
    elif isinstance(error, WorkerDied):
        print(f"{program}: {shortened(error, 2000)}", file=sys.stderr)
    elif isinstance(error, (KeyboardInterrupt, Interrupted)):
        print(f"{program}: interrupted: earlier output is unchanged: give the same command again", file=sys.stderr)
    elif told := _in_one_line(error):
        print(f"{program}: {told}", file=sys.stderr)
        return _leave(InputError.exit_code)
    else:
        traceback.print_exception(error)
    return _leave(1)


def _in_one_line(error: BaseException) -> str | None:
    """What happened and the remedy, for errors of the disk, of paths and of memory; None for all others."""
    if isinstance(error, OSError) and (error.errno in DISK_TROUBLE or (error.errno and error.filename)):
        remedy = FREE_SPACE if error.errno in DISK_FULL else "choose another path, which you may read and write"
        return shortened(f"{error.filename or 'disk'}: {error.strerror}: {remedy}", 2000)
    # NumPy and safetensors report a full disk in words of their own.
    if isinstance(error, Exception) and re.search(r"No space left|requested and \d+ written", str(error)):
        return f"disk: {os.strerror(errno.ENOSPC)}: {FREE_SPACE}"
    if isinstance(error, (RuntimeError, ValueError)) and str(error).startswith(("Symlink loop", "embedded null byte")):
        return f"a path cannot be used ({shortened(error)}): give another"
    if isinstance(error, MemoryError):
        return f"memory is full ({shortened(error)}): {MEMORY_TROUBLE}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's; torch is not imported here
        what = ". ".join(str(error).split(". ")[:2])
        return f"{what}: {MEMORY_TROUBLE}"
    return None


def _leave(code: int) -> int:
    """Return the exit code of a failure of this rank alone; if there are other ranks, end the process with it.

    A normal exit would wait for the other ranks (NCCL shuts down together), which wait for this rank in their next
    exchange, so the launcher would never learn of the failure.
    """
    distributed = sys.modules.get("torch.distributed")  # it is not imported here because --help must be quick
    if distributed and distributed.is_available() and distributed.is_initialized():
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)
    return code
