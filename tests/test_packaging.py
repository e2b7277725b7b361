"""What a user installs is what the tree holds, and the folder ``ssl/`` never hides Python's own module."""

import ast
import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dermeval import cli as eval_cli
from dermssl import cli as ssl_cli

ROOT = Path(__file__).parents[1]
SOURCES = {"dermssl": ROOT / "ssl", "dermeval": ROOT / "eval"}
LEVELS = {
    "dermssl": [
        {"errors"},
        {"atomic"},
        {"paths", "licences", "parallel"},
        {"files"},
        {"neighbours", "parser", "devices", "page", "plotting", "data_workers"},
        {"commandline"},
        {"dataset"},
        {"prepare", "describe"},
        {"synth"},
        {"backbone", "views"},
        {"methods"},
        {"training"},
        {"cli"},
        {"__main__"},
    ],
    "dermeval": [
        {"features", "statistics", "pages"},
        {"probes", "retrieval", "leaks"},
        {"web"},
        {"cli"},
        {"__main__"},
    ],
}
"""Rooms and top-level modules, lowest first: one imports only from levels below its own, or from itself."""
NEVER_AT_HELP = {"torch", "pandas", "timm", "numpy", "pyarrow", "faiss", "matplotlib", "sklearn", "PIL"}


def modules(package: str) -> list[Path]:
    return sorted((SOURCES[package] / package).rglob("*.py"))


def room(path: Path) -> str:
    below = path.relative_to(SOURCES[package_of(path)] / package_of(path))
    return below.parts[0].removesuffix(".py")


def package_of(path: Path) -> str:
    return "dermssl" if path.is_relative_to(SOURCES["dermssl"] / "dermssl") else "dermeval"


def imported(path: Path) -> set[str]:
    """Full dotted names of everything that a file imports, at any depth, type-checking imports included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=300)


def source_path() -> str:
    return os.pathsep.join(map(str, SOURCES.values()))


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_every_package_of_the_tree_is_listed_and_no_other():
    tree = {
        ".".join(init.parent.relative_to(source).parts)
        for source in SOURCES.values()
        for init in source.rglob("__init__.py")
    }
    assert set(setup_cfg()["options"]["packages"].split()) == tree


def test_every_folder_with_modules_is_a_package():
    bare = {p.parent for name in SOURCES for p in modules(name) if not (p.parent / "__init__.py").exists()}
    assert not bare


def test_the_source_folders_are_no_packages():
    assert not (ROOT / "ssl" / "__init__.py").exists() and not (ROOT / "eval" / "__init__.py").exists()


def test_started_in_the_repository_python_has_its_own_ssl_and_pip():
    code = "import ssl; ssl.SSLContext; print(ssl.__file__)"
    found = python("-c", code)
    assert found.returncode == 0, found.stderr
    assert not Path(found.stdout.strip()).is_relative_to(ROOT)
    assert python("-m", "pip", "--version").returncode == 0


@pytest.mark.parametrize("package", LEVELS)
def test_a_room_imports_only_rooms_below_it(package):
    level = {name: number for number, names in enumerate(LEVELS[package]) for name in names}
    wrong = []
    for path in modules(package):
        own = room(path)
        if own == "__init__":
            continue
        assert own in level, f"{own} has no level: add it to LEVELS"
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1 and parts[1] in level:
                other = parts[1]
                if other != own and level[other] >= level[own]:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_dermssl_never_imports_dermeval():
    assert not [p for p in modules("dermssl") if any(name.split(".")[0] == "dermeval" for name in imported(p))]


def test_faiss_is_imported_in_one_module_only():
    users = [p for name in SOURCES for p in modules(name) if any(n.split(".")[0] == "faiss" for n in imported(p))]
    assert users == [SOURCES["dermssl"] / "dermssl" / "neighbours.py"]


def test_nothing_reads_or_writes_pickle():
    banned = re.compile(r"^\s*(import|from)\s+(pickle|cloudpickle|joblib|dill|shelve)\b", re.MULTILINE)
    calls = re.compile(
        r"torch\.save\(|accelerator\.save_state\(|allow_pickle=True|weights_only=False|\b(read|to)_pickle\("
    )
    for path in [p for folder in ("ssl", "eval", "scripts") for p in sorted((ROOT / folder).rglob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        assert not banned.search(text) and not calls.search(text), path


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the built wheel installed, and nothing else."""
    work = tmp_path_factory.mktemp("wheel")
    copy = work / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "tests")
    copy.mkdir()
    for name in ("ssl", "eval", "setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    built = python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(work), cwd=copy)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = work.glob("*.whl")
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    got = python(*pip, "--target", str(work / "site"), str(wheel), cwd=work)
    assert got.returncode == 0, got.stderr
    return work / "site"


def test_the_wheel_holds_every_file_of_both_packages(installed):
    for package, source in SOURCES.items():
        tree = {p.relative_to(source) for p in (source / package).rglob("*") if p.is_file()}
        tree = {p for p in tree if "__pycache__" not in p.parts}
        missing = {str(p) for p in tree if not (installed / p).is_file()}
        assert not missing
        assert Path(package, "py.typed") in tree


@pytest.mark.parametrize("package", SOURCES)
def test_the_installed_command_runs_elsewhere(installed, package, tmp_path):
    answered = python("-m", package, "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert answered.returncode == 0 and f"usage: {package}" in answered.stdout, answered.stderr
    where = python("-c", f"import {package}; print({package}.__file__)", cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(where.stdout.strip()).is_relative_to(installed)


@pytest.mark.parametrize("package", SOURCES)
def test_the_console_command_is_declared_and_callable(installed, package):
    (distribution,) = importlib.metadata.distributions(name="dermssl", path=[str(installed)])
    (entry,) = distribution.entry_points.select(group="console_scripts", name=package)
    assert entry.value == f"{package}.cli:main"
    call = f"import sys; from {package}.cli import main; sys.exit(main(['--version']))"
    assert python("-c", call, PYTHONPATH=str(installed)).stdout.startswith(f"{package} ")


def every_command() -> list[tuple[str, str]]:
    """Program and command, as the programs list them."""
    return [
        (name, command.name)
        for name, module in (("dermssl", ssl_cli), ("dermeval", eval_cli))
        for command in module.COMMANDS
    ]


ASK_FOR_HELP = """
import sys, time
from {package}.cli import main
code = main({arguments})
loaded = sorted({heavy} & set(sys.modules))
print("CPU", time.process_time(), "LOADED", *loaded, file=sys.stderr)
sys.exit(code)
"""


def help_costs(package: str, arguments: list[str]) -> tuple[float, list[str], str]:
    """CPU seconds, heavy modules loaded, and the text of a call for help."""
    code = ASK_FOR_HELP.format(package=package, arguments=arguments, heavy=NEVER_AT_HELP)
    answered = python("-c", code, PYTHONPATH=source_path())
    assert answered.returncode == 0, answered.stderr
    cpu, loaded = re.search(r"CPU (\S+) LOADED(.*)", answered.stderr).groups()
    return float(cpu), loaded.split(), answered.stdout


@pytest.mark.parametrize(("package", "command"), every_command())
def test_help_answers_within_a_second_of_cpu_and_loads_nothing_heavy(package, command):
    seconds, loaded, text = help_costs(package, [command, "--help"])
    assert f"usage: {package} {command}" in text and "--config" in text and not loaded
    assert seconds < 1.0


@pytest.mark.parametrize("package", SOURCES)
def test_the_overview_names_every_command_at_once(package):
    seconds, loaded, text = help_costs(package, ["--help"])
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for owner, name in every_command() if owner == package)
    assert seconds < 1.0 and not loaded
