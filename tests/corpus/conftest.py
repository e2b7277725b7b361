"""Bad inputs for every command. Each is answered by exit code 2 and one line, and nothing is written or lost.

A test file of this folder names one command: ``COMMAND`` with the ``{folders}`` it reads, ``READS`` of these, and the
files of theirs that must be refused when they are ``DAMAGED``, or hold other ``ARRAYS``, ``JSON`` or ``TABLES``.
Its one test runs once for each family of bad inputs, see `FAMILIES`, and reports all that were answered otherwise.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dermeval.cli import COMMANDS as DERMEVAL
from dermeval.cli import main as dermeval
from dermssl.cli import COMMANDS as DERMSSL
from dermssl.cli import main as dermssl
from dermssl.commandline import options_class
from dermssl.parser import leaves, option_string

SECONDS = 60
"""After which a command counts as hanging."""
NUMBERS = ("inf", "-inf", "nan", "1e308", "9" * 6000, str(2**63), "²", "", "x\ny", "[" * 3000, "!!python/name:os x")
VALUES: tuple[Any, ...] = (None, -1.5, "x", [None], {}, 10**30, "\udcff")
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


PRETRAIN = (
    "--model.backbone test_vit --views.global_size 32 --views.local_size 16 --views.local_count 1 --dino.out_dim 32 "
    "--dino.hidden_dim 16 --dino.bottleneck_dim 8 --training.epochs 1 --training.batch 8 --training.precision fp32 "
    "--optim.warmup_epochs 0 --data.workers 0 --health.on_collapse warn"
)
KNN = "dermeval knn {emb} --target condition --draws 40 --k 3"
RECIPES = {
    "raw": "dermssl synth --patients 16 --image-size 32 --duplicates 2 --workers 1",
    "data": "dermssl prepare --source passion --root {raw} --workers 1",
    "emb": "dermeval embed --encoder random:test_vit2 --data {data} --workers 0 --image-size 32",
    "result": KNN,
    "other": KNN + " --seed 1",
    "index": "dermeval index {emb}",
    "leaks": "dermeval leaks {data} --planted 0 --workers 1",
    "run": "dermssl pretrain --data {data} " + PRETRAIN,
    "encoder": "dermssl export {run}",
}
"""How each folder of the house is made; the folders in brackets are made before it."""


def folders_of(command: str) -> set[str]:
    """The folders in brackets, and all that they are made of, as they name these."""
    named = set(re.findall(r"{(\w+)}", command))
    return named.union(*(folders_of(RECIPES.get(name, "")) for name in named))


@pytest.fixture(scope="session")
def house(tmp_path_factory) -> Callable[[str], Path]:
    """Makes a small folder by its name, once, with the commands themselves; also ``photo`` and ``mine``."""
    torch.set_num_threads(1)
    top = tmp_path_factory.mktemp("house")

    def folder(name: str) -> Path:
        path = top / ("photo.jpg" if name == "photo" else name)
        if path.exists():
            return path
        if name == "photo":
            shutil.copy(next((folder("raw") / "images").iterdir()), path)
        elif name == "mine":
            path.mkdir()
            (path / "notes.txt").write_text("not to be lost")
        else:
            needed = {need: folder(need) for need in folders_of(RECIPES[name])}
            program, *arguments = RECIPES[name].format(**needed).split()
            code, error = run(program, *arguments, "--out", str(path))
            assert code == 0, f"{name}: {error}"
        return path

    return folder


class Attack:
    """A command at work on a copy of `house`, and the answers that were wrong."""

    def __init__(self, command: str, reads: Sequence[str], top: Path) -> None:
        self.program, self.name, *self.arguments = command.split()
        self.reads, self.top, self.wrong = reads, top, []
        entry = {c.name: c for c in {"dermssl": DERMSSL, "dermeval": DERMEVAL}[self.program]}[self.name]
        self.options = options_class(self.program, entry)

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
        taken = {leaf.name: plain(leaf.kind) for leaf in leaves(self.options) if not leaf.is_positional}
        numbers = {name: kind for name, kind in taken.items() if kind & {int, float}}
        for place, (name, kind) in enumerate(numbers.items()):
            values = [*NUMBERS[place % len(NUMBERS) :], *NUMBERS][: len(NUMBERS) if len(numbers) < 20 else 1]
            for value in values if str not in kind else ["1e999"]:
                self.refused(f"{name} {value[:20]!r}", [*self.line(), f"{option_string(name)}={value}", *self.out()])

    def out(self, path: str = "out") -> list[str]:
        """``--out`` with a path of the house, where the command has it."""
        names = [leaf.name for leaf in leaves(self.options)]
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
        """Files that are read: cut, emptied, of another kind, or gone. One changed byte may go unseen."""
        for name in required:
            for what, spoil in DAMAGES.items():
                with restored(self.top / name):
                    spoil(self.top / name)
                    self.refused(f"{name}: {what}", [*self.line(), *self.out()], may_succeed=what == "one byte")
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
        """Every column of Parquet files, gone, and of another type, short or empty in turn."""
        for name in names:
            file = self.top / name
            table = pq.read_table(file)
            for column in table.column_names:
                place = table.column_names.index(column)
                numbers, nothing = pa.array(np.arange(len(table)) * 1.5), pa.nulls(len(table))
                texts = pa.array([f"<{row}>" for row in range(len(table))])
                changes = [table.set_column(place, column, values) for values in (numbers, texts, nothing)]
                changes += [table.slice(0, 0), table.slice(0, 3)]
                for number, changed in enumerate((table.drop_columns(column), changes[place % len(changes)])):
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


FAMILIES: dict[str, tuple[str | None, Callable[..., None]]] = {
    "numbers": (None, Attack.numbers_of_options),
    "reports": (None, Attack.names_of_reports),
    "inputs": ("READS", Attack.names_of_inputs),
    "outputs": ("WRITES", Attack.names_of_outputs),
    "damage": ("DAMAGED", Attack.damage),
    "arrays": ("ARRAYS", Attack.arrays),
    "json": ("JSON", Attack.json_values),
    "columns": ("TABLES", Attack.table_columns),
}
"""Families of bad inputs: the list of the test file that one needs (None: none), and what tries it."""


def pytest_generate_tests(metafunc):
    """One test for each family that the command has inputs for."""
    if "family" in metafunc.fixturenames:
        chosen = [name for name, (needs, _) in FAMILIES.items() if not needs or getattr(metafunc.module, needs, ())]
        metafunc.parametrize("family", chosen)


@pytest.fixture
def attack(request, house, tmp_path) -> Iterator[Callable[[str], None]]:
    """Tries a family of bad inputs on the command of this test file; judged at the end of the test."""
    top = tmp_path / "house"
    top.mkdir()
    for name in {"photo", "mine", *folders_of(request.module.COMMAND)}:
        made = house(name)
        (shutil.copytree if made.is_dir() else shutil.copy)(made, top / made.name)
        for file in (top / made.name).rglob("*.json"):
            file.write_text(file.read_text().replace(str(made.parent), str(top)))
    attacked = Attack(request.module.COMMAND, getattr(request.module, "READS", ()), top)

    def tries(family: str) -> None:
        needs, attempt = FAMILIES[family]
        names = getattr(request.module, needs) if needs not in (None, "READS", "WRITES") else ()
        attempt(attacked, *names)

    yield tries
    attacked.judged()


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
    data = bytearray(file.read_bytes() or b"x")
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
    """Texts in which one key of a JSON object, at any depth, is gone or has one of three other values in turn."""
    here = value
    for key in path:
        here = here[key]
    entries: Any = here.items() if isinstance(here, dict) else enumerate(here[:1])
    for key, old in list(entries):
        name = ".".join(map(str, (*path, key)))
        for new in [VALUES[(len(name) + turn) % len(VALUES)] for turn in range(3)]:
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
