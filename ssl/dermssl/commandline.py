"""Runs the commands of `dermssl` and `dermeval`, with the same errors and exit codes."""

import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from dermssl import __version__
from dermssl.atomic import locked
from dermssl.errors import InputError, did_you_mean, plain_text, tell
from dermssl.files import write_json
from dermssl.parallel import signal_handlers
from dermssl.parser import hidden_options, make_parser, parse
from dermssl.paths import REPORT_MARK, json_object, require_output_file


class Report(NamedTuple):
    """The result of a command: ``text`` to print, and the same as ``data`` for ``--json``."""

    text: str
    data: dict[str, Any]


class Command(NamedTuple):
    """One subcommand, whose code is imported only when it is used.

    The package ``room`` has a file with the command's name, and in it a function of that name. ``options`` is the name
    of a dataclass in the room's file ``options``. ``writes`` is the option with the folder that the command writes,
    which is locked while the command runs. ``ranks``: a launcher may start several processes of the command.
    """

    name: str
    summary: str
    room: str
    options: str
    writes: str | None = None
    ranks: bool = False


def main(program: str, summary: str, commands: Sequence[Command], argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code (0 done, 2 bad input, 3 health, 75 pre-empted, 1 else)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    rank = int(os.environ.get("RANK") or 0)
    logging.basicConfig(format="%(message)s", level=logging.ERROR if rank else logging.INFO, stream=sys.stderr)
    for noisy in ("PIL", "faiss", "matplotlib", "timm", "accelerate", "torch", "tensorboard", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold bytes that are not text
    with signal_handlers({signal.SIGTERM: _interrupt}):
        try:
            return _dispatch(program, summary, {c.name: c for c in commands}, arguments)
        except (Exception, KeyboardInterrupt) as error:
            return tell(program, error)


def _interrupt(*_: object) -> None:
    """Let SIGTERM end a command like Ctrl-C, so that temporary files and locks are removed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one, as schedulers send, must not stop the cleaning
    raise KeyboardInterrupt


def _dispatch(program: str, summary: str, commands: dict[str, Command], arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, commands))
        print(f"usage: {program} COMMAND [options]\n\n{summary}\n\ncommands:")
        print(*(f"  {c.name:<{width}}  {c.summary}" for c in commands.values()), sep="\n")
        print(f"\n{program} COMMAND --help")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"{program} {__version__}")
        return 0
    if arguments[0] not in commands:
        raise InputError(f"unknown command '{arguments[0]}'; {did_you_mean(arguments[0], commands)}")
    return _run(program, commands[arguments[0]], arguments[1:])


def _run(program: str, command: Command, arguments: list[str]) -> int:
    title, options_type = f"{program} {command.name}", options_class(program, command)
    if {"-h", "--help", "--help-all"} & set(arguments):
        hidden = set() if "--help-all" in arguments else hidden_options(options_type, arguments)
        make_parser(title, options_type, hidden).print_help()
        if hidden:
            print(f"\n`{title} --help-all` explains all options, also the ones that are rarely needed.")
        return 0
    if launched_ranks() > 1:
        _check_launch(title, command)
    options, json_file = parse(title, options_type, arguments)
    if getattr(options, "overwrite", False) and options.out is None:
        raise InputError("--overwrite counts only with --out: leave it out, or give --out")
    written = getattr(options, command.writes) if command.writes else None
    if json_file is not None:
        require_output_file(Path(json_file), "--json", is_report)
        if written and Path(json_file).resolve() == Path(written).resolve():
            raise InputError(f"--json {json_file} is the folder that the command writes: give another path")
    with locked(Path(written)) if written and "://" not in written else nullcontext():  # an object store has no folders
        report = _function(program, command)(options)
    if report is not None:
        try:
            print(plain_text(report.text))
        finally:  # the reader of a pipe, such as `head`, may have closed it
            if json_file is not None:
                write_json(Path(json_file), {REPORT_MARK: title} | report.data)
    return 0


def _check_launch(title: str, command: Command) -> None:
    """Raise InputError if the command runs as one process, or if variables of a launcher were left behind."""
    if not command.ranks:
        raise InputError(f"{title} runs as one process: start it without a launcher")
    absent = [name for name in ("RANK", "MASTER_ADDR") if not os.environ.get(name)]
    if absent:  # it would wait for ranks that nobody started
        raise InputError(
            f"WORLD_SIZE and LOCAL_RANK are set, but not {' and '.join(absent)}: start {title} with torchrun or "
            "`accelerate launch`, or unset WORLD_SIZE and LOCAL_RANK to run it as one process"
        )


def launched_ranks() -> int:
    """Ranks that a launcher (torchrun, Accelerate) started, this one among them; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "LOCAL_RANK" in os.environ else 1


def options_class(program: str, command: Command) -> type:
    """The dataclass of a command's options."""
    return getattr(importlib.import_module(f"{program}.{command.room.split('.')[0]}.options"), command.options)


def _function(program: str, command: Command) -> Callable[[Any], Report | None]:
    file = command.name.replace("-", "_")
    return getattr(importlib.import_module(f"{program}.{command.room}.{file}"), file)


def is_report(path: Path) -> bool:
    """Whether ``--json`` wrote the file ``path``."""
    return str(json_object(path).get(REPORT_MARK)).startswith(("dermssl ", "dermeval "))
