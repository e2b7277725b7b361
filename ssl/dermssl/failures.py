"""How a command that ends early says so: one line where that is enough, and the exit code."""

import contextlib
import errno
import os
import re
import sys
import traceback

from dermssl.errors import HealthStop, InputError, Interrupted, Preempted, WorkerDied, shortened

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
        print(f"{program}: {error}", file=sys.stderr)
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
