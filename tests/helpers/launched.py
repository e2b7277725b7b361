"""Commands in processes of their own that start at once: each is a copy of a process that has imported all they need.

A fresh Python spends three seconds of a core on importing PyTorch and the rest; torchrun with two ranks spends ten.
A copy has its own process id, session, pipes, signals and exit code, and two ranks have torchrun's own agent.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("dermssl.training.pretrain", "dermssl.prepare.prepare", "dermeval.features.embed", "dermeval.leaks.leaks"),
        *("torch.distributed.run", "torch.utils.tensorboard", "dermssl.methods.dino", "dermssl.methods.simclr"),
    ]
)


class Launched:
    """Python with ``program`` (``("-m", module)``, ``("-c", code)`` or a path) and arguments; as `subprocess.Popen`.

    Its error output goes where its output goes. With ``ranks``, torchrun's agent starts so many copies.
    """

    def __init__(
        self,
        program: Sequence[str],
        arguments: Sequence[str],
        ranks: int = 1,
        environment: dict[str, str] | None = None,
    ) -> None:
        reads, writes = SERVER.Pipe(duplex=False), SERVER.Pipe(duplex=False)
        given = (reads[0], writes[1], tuple(program), list(arguments), ranks, dict(environment or os.environ))
        self._process = SERVER.Process(target=_run, args=given)
        self._process.start()
        reads[0].close()
        writes[1].close()
        self.stdin, self.stdout = (
            os.fdopen(os.dup(pipe.fileno()), mode) for pipe, mode in ((reads[1], "w"), (writes[0], "r"))
        )
        reads[1].close()
        writes[0].close()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal that ended the process, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises TimeoutError."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"still running after {timeout} s")
        return self._process.exitcode

    def communicate(self, text: str = "", timeout: float | None = None) -> tuple[str, None]:
        """Say ``text`` and read what is printed until the end. A process that does not end in time is killed."""
        late = threading.Timer(timeout or 600, self.kill)
        late.start()
        with contextlib.suppress(BrokenPipeError):
            self.stdin.write(text)
            self.stdin.close()
        with self.stdout:
            told = self.stdout.read()
        self._process.join()
        late.cancel()
        return told, None

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process, and the ranks with their agent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _run(
    stdin: Connection, stdout: Connection, program: Sequence[str], arguments: list[str], ranks: int, environment
) -> None:
    os.setsid()
    for number, pipe in ((0, stdin), (1, stdout), (2, stdout)):
        os.dup2(pipe.fileno(), number)
    stdin.close()
    stdout.close()
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    if ranks == 1:
        _python(program, arguments)
    sys.stdout.reconfigure(write_through=True)  # as torchrun starts Python
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--rdzv_id", str(os.getpid())]  # standalone
    asked = [*meeting, "--nproc_per_node", str(ranks), "--start_method", "fork", "program"]
    elastic_launch(config_from_args(parse_args(asked))[0], _python)(program, arguments)


def _python(program: Sequence[str], arguments: list[str]) -> None:
    """What Python does with its arguments, then an end of the process."""
    multiprocessing.set_start_method(None, force=True)  # data workers start as they do in any Python
    sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing closes it
    sys.argv = [program[-1] if program[0] != "-c" else "-c", *arguments]
    try:
        if program[0] == "-c":
            exec(compile(program[1], "<string>", "exec"), {"__name__": "__main__"})
        elif program[0] == "-m":
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing's processes end without
    sys.exit(0)
