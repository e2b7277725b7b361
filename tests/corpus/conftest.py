"""Bad inputs for every command. Each is answered by exit code 2 and one line, and nothing is written or lost.

A test file of this folder names one command: ``COMMAND`` with the ``{folders}`` it reads, and ``READS`` of these. The
fixture `attack` tries a family of bad inputs and reports all that were answered otherwise.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dermeval.cli import COMMANDS as DERMEVAL
from dermeval.cli import main as dermeval
from dermssl.cli import COMMANDS as DERMSSL
from dermssl.cli import main as dermssl
from dermssl.parser import option_string

SECONDS = 60
"""After which a command counts as hanging."""
NUMBERS = ("inf", "-inf", "nan", "1e308", "9" * 6000, str(2**63), "²", "", "x\ny", "[" * 3000, "!!python/name:os x")
VALUES: tuple[Any, ...] = (None, -1.5, "x", [None], {}, 10**30)
tried: dict[str, int] = {}


def pytest_terminal_summary(terminalreporter):
    """Say how many inputs were tried."""
    if tried:
        counted = ", ".join(f"{name} {number}" for name, number in sorted(tried.items()))
        terminalreporter.write_line(f"bad inputs tried: {sum(tried.values())} ({counted})")


def run(program: str, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command in this process; SystemExit and a hang are codes too."""

    def hang(*_):
        raise TimeoutError(f"still running after {SECONDS} s")

    error = io.StringIO()
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            code = {"dermssl": dermssl, "dermeval": dermeval}[program](list(arguments))
    except SystemExit as end:
        code = -1 if not isinstance(end.code, int) else end.code
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, error.getvalue()


@pytest.fixture(scope="session")
def house(tmp_path_factory) -> Path:
    """One small folder of each kind, made by the commands themselves."""
    torch.set_num_threads(1)
    top = tmp_path_factory.mktemp("house")
    knn = f"{top}/emb --target condition --draws 20 --k 3"
    for line in (
        f"dermssl synth --out {top}/raw --patients 16 --image-size 32 --duplicates 2 --workers 1",
        f"dermssl prepare --source passion --root {top}/raw --out {top}/data --workers 1",
        f"dermeval embed --encoder random:test_vit2 --data {top}/data --out {top}/emb --workers 0 --image-size 32",
        f"dermeval knn {knn} --out {top}/result",
        f"dermeval knn {knn} --seed 1 --out {top}/other",
        f"dermeval index {top}/emb --out {top}/index",
        f"dermssl pretrain --data {top}/data --out {top}/run {PRETRAIN}",
        f"dermssl export {top}/run --out {top}/encoder",
    ):
        program, *arguments = line.split()
        code, error = run(program, *arguments)
        assert code == 0, f"{line}: {error}"
    shutil.copy(next((top / "raw" / "images").iterdir()), top / "photo.jpg")
    (top / "mine").mkdir()
    (top / "mine" / "notes.txt").write_text("not to be lost")
    return top


PRETRAIN = (
    "--model.backbone test_vit --views.global_size 32 --views.local_size 16 --views.local_count 1 --dino.out_dim 32 "
    "--dino.hidden_dim 16 --dino.bottleneck_dim 8 --training.epochs 1 --training.batch 8 --training.precision fp32 "
    "--optim.warmup_epochs 0 --data.workers 0 --health.on_collapse warn"
)


class Attack:
    """A command at work on a copy of `house`, and the answers that were wrong."""

    def __init__(self, command: str, reads: Sequence[str], top: Path) -> None:
        self.program, self.name, *self.arguments = command.split()
        self.reads, self.top, self.wrong = reads, top, []
        entry = {c.name: c for c in {"dermssl": DERMSSL, "dermeval": DERMEVAL}[self.program]}[self.name]
        module, _, name = entry.options.partition(":")
        self.options = getattr(importlib.import_module(module), name)
        self.writes = entry.writes == "out"

    def path(self, name: str) -> str:
        """A folder of the house by its name."""
        return str(self.top / name)

    def line(self, **replaced: str) -> list[str]:
        """The command's arguments, with some of its folders replaced."""
        names = {path.name.partition(".")[0]: str(path) for path in self.top.iterdir() if not path.name.startswith(".")}
        return [argument.format(**names | replaced) for argument in self.arguments]

    def refused(self, what: str, arguments: Sequence[str], may_succeed: bool = False) -> None:
        """Run the command. Note the answer where it is not one line, or anything was changed."""
        tried[self.name] = tried.get(self.name, 0) + 1
        before = snapshot(self.top)
        try:
            code, error = run(self.program, self.name, *arguments)
        except BaseException as ended:  # whatever comes through is a fault
            code, error = 1, f"Traceback: {ended!r}"
        lines = [line for line in error.splitlines() if not line.startswith(("warning: ", "note: "))]
        if code == 0 and may_succeed:
            return
        if code != 2 or len(lines) != 1 or not lines[0].startswith(f"{self.program}: ") or len(lines[0]) > 2100:
            self.wrong.append(f"{what}: exit code {code}: {error.strip()[-400:]}")
        changed = set(before.items()) ^ set(snapshot(self.top).items())
        if changed:
            self.wrong.append(f"{what}: changed {sorted(name for name, _ in changed)[:4]}")

    def numbers_of_options(self) -> None:
        """Numbers that no library takes, for every option that is a number."""
        for name, kind in leaves(self.options):
            if kind & {int, float}:
                values = [value for value in NUMBERS if not (str in kind and value in ("", "x\ny"))]
                for value in values if str not in kind else ["1e999"]:
                    self.refused(
                        f"{name} {value[:20]!r}", [*self.line(), f"{option_string(name)}={value}", *self.out()]
                    )

    def out(self, path: str = "out") -> list[str]:
        """``--out`` with a path of the house, where the command has it."""
        names = [name for name, _ in leaves(self.options)]
        return ["--out", str(self.top / path)] if "out" in names and "--out" not in self.arguments else []

    def names_of_outputs(self) -> None:
        """Names that no folder can have, folders of others, and those that are read, with and without --overwrite."""
        for name, path in odd_paths(self.top).items():
            self.refused(f"--out {name}", [*self.line(), "--out", path])
            self.refused(f"--out {name} --overwrite", [*self.line(), "--out", path, "--overwrite"])
        for path in ("mine", ".", "photo.jpg", *self.reads):
            self.refused(f"--out {path} --overwrite", [*self.line(), "--out", str(self.top / path), "--overwrite"])

    def names_of_reports(self) -> None:
        """The same for --json, which replaces no file but a report."""
        (self.top / "old.json").write_text('{"mine": 1}')
        inside = [str(path.relative_to(self.top)) for read in self.reads for path in (self.top / read).rglob("*.json")]
        for name, path in odd_paths(self.top).items():
            self.refused(f"--json {name}", [*self.line(), *self.out(), "--json", path])
        for path in ("mine", "mine/notes.txt", "photo.jpg", "old.json", *inside):
            self.refused(f"--json {path}", [*self.line(), *self.out(), "--json", str(self.top / path)])

    def names_of_inputs(self) -> None:
        """Folders that do not exist, are no folders, are others' or hang."""
        others = {
            "empty": str(self.top / "empty"),
            "mine": str(self.top / "mine"),
            "photo": str(self.top / "photo.jpg"),
        }
        (self.top / "empty").mkdir()
        for read in self.reads:
            for name, path in (odd_paths(self.top) | others | {"missing": str(self.top / "missing")}).items():
                self.refused(f"{read} is {name}", [*self.line(**{read: path}), *self.out()])

    def damage(self, *required: str) -> None:
        """Every file of the folders that are read: cut, emptied, of another kind, or gone.

        ``required`` files must be refused when they are damaged; others may go unread.
        """
        for read in self.reads:
            for file in sorted(path for path in (self.top / read).rglob("*") if path.is_file()):
                name = str(file.relative_to(self.top))
                for what, spoil in DAMAGES.items():
                    with restored(file):
                        spoil(file)
                        must = name in required and what != "one byte"
                        self.refused(f"{name}: {what}", [*self.line(), *self.out()], may_succeed=not must)
                    self.forget_output()

    def json_values(self, *names: str) -> None:
        """Every key of JSON files, and of the objects in them, without a value or with one of another type."""
        for name in names:
            file = self.top / name
            for what, text in spoilt_json(json.loads(file.read_text())):
                with restored(file):
                    file.write_text(text)
                    self.refused(f"{name}: {what}", [*self.line(), *self.out()], may_succeed=True)
                self.forget_output()

    def table_columns(self, *names: str) -> None:
        """Every column of Parquet files, gone or of another type."""
        for name in names:
            file = self.top / name
            table = pq.read_table(file)
            for column in table.column_names:
                place = table.column_names.index(column)
                numbers, nothing = pa.array(np.arange(len(table)) * 1.5), pa.nulls(len(table))
                texts = pa.array([f"<{row}>" for row in range(len(table))])
                changes = [table.drop_columns(column)]
                changes += [table.set_column(place, column, values) for values in (numbers, texts, nothing)]
                for number, changed in enumerate([*changes, table.slice(0, 0), table.slice(0, 3)]):
                    with restored(file):
                        pq.write_table(changed, file)
                        self.refused(f"{name}: {column} {number}", [*self.line(), *self.out()], may_succeed=True)
                    self.forget_output()

    def arrays(self, *names: str) -> None:
        """Arrays of another type, shape or encoder, and with NaN."""
        for name in names:
            file = self.top / name
            array = np.load(file)
            spoilt = {
                "complex": array.astype(complex),
                "whole numbers": array.astype(int),
                "no width": array[:, :0],
                "a row less": array[:-1],
                "no rows": array[:0],
                "one axis": array.ravel(),
                "NaN": np.where(np.arange(array.size).reshape(array.shape) == 3, np.nan, array),
                "infinity": np.where(np.arange(array.size).reshape(array.shape) == 3, np.inf, array),
                "swapped": array[:, ::-1] + 1,
                "wider": np.hstack([array, array]),
            }
            for what, values in spoilt.items():
                with restored(file):
                    np.save(file, values)
                    self.refused(f"{name}: {what}", [*self.line(), *self.out()], may_succeed=what == "swapped")
                self.forget_output()

    def forget_output(self) -> None:
        """Remove what an input that was usable after all has made."""
        shutil.rmtree(self.top / "out", ignore_errors=True)

    def judged(self) -> None:
        """Fail with all wrong answers."""
        assert not self.wrong, f"{len(self.wrong)} wrong answers:\n" + "\n".join(self.wrong[:40])


@pytest.fixture
def attack(request, house, tmp_path) -> Iterator[Attack]:
    """The attack on the command of this test file; judged at the end of the test."""
    top = tmp_path / "house"
    shutil.copytree(house, top)
    for file in top.rglob("*.json"):
        file.write_text(file.read_text().replace(str(house), str(top)))
    attacked = Attack(request.module.COMMAND, request.module.READS, top)
    yield attacked
    attacked.judged()


def leaves(options: type, prefix: str = "") -> Iterator[tuple[str, set[type]]]:
    """Dotted names of all options and the plain types that they take."""
    hints = get_type_hints(options)
    for field in dataclasses.fields(options):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{field.name}.")
        elif not field.metadata.get("positional"):
            yield prefix + field.name, plain(kind)


def plain(kind: Any) -> set[type]:
    """int, float, str or bool, of which a type hint is made."""
    if isinstance(kind, type) and issubclass(kind, bool):
        return {bool}
    for base in (int, float, str):
        if isinstance(kind, type) and issubclass(kind, base):
            return {base}
    return {found for part in get_args(kind) if not isinstance(part, str) for found in plain(part)}


def odd_paths(top: Path) -> dict[str, str]:
    """Paths under which nothing can be put and nothing is."""
    if not (top / "loop").is_symlink():
        (top / "loop").symlink_to(top / "loop")
        os.mkfifo(top / "pipe")
        (top / "file").write_text("mine")
    return {
        "a device": "/dev/null",
        "below a device": "/dev/null/x",
        "a loop of links": str(top / "loop"),
        "below a loop": str(top / "loop" / "x"),
        "a pipe": str(top / "pipe"),
        "below a file": str(top / "file" / "x"),
        "a file": str(top / "file"),
        "250 characters": str(top / ("x" * 250)),
        "5000 characters": str(top / ("x" * 5000)),
        "a null": str(top / "a\0b"),
    }


@contextlib.contextmanager
def restored(file: Path) -> Iterator[None]:
    """The file as it was, whatever becomes of it inside."""
    data, times = file.read_bytes(), file.stat()
    try:
        yield
    finally:
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)
        file.write_bytes(data)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _one_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x55
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "gone": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "cut at its end": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "noise": lambda file: file.write_bytes(np.random.default_rng(0).bytes(999)),
    "a folder": _folder,
    "a pipe": _pipe,
    "one byte": _one_byte,
}


def spoilt_json(value: dict[str, Any], path: tuple = ()) -> Iterator[tuple[str, str]]:
    """Texts in which one key of a JSON object, at any depth, is gone or has another value."""
    here = value
    for key in path:
        here = here[key]
    entries: Any = here.items() if isinstance(here, dict) else enumerate(here[:1])
    for key, old in list(entries):
        name = ".".join(map(str, (*path, key)))
        for new in (*VALUES, "\udcff"):
            if new != old:
                here[key] = new
                yield f"{name} = {str(new)[:20]!r}", json.dumps(value)
        if isinstance(here, dict):
            del here[key]
            yield f"{name} is gone", json.dumps(value)
        here[key] = old
        if isinstance(old, (dict, list)) and len(path) < 3:
            yield from spoilt_json(value, (*path, key))


def snapshot(top: Path) -> dict[str, tuple]:
    """All below ``top``: kind, size and time of every file."""
    found = {}
    for path in top.rglob("*"):
        state = path.lstat()
        found[str(path.relative_to(top))] = (
            stat.S_IFMT(state.st_mode),
            0 if path.is_dir() else state.st_size,
            0 if path.is_dir() else state.st_mtime_ns,
        )
    return found
