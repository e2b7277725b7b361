"""A public name stands in one module only, so that a reader finds it by its name alone."""

import ast
from collections import Counter, defaultdict
from pathlib import Path

import dermeval.cli
import dermssl.cli

ROOT = Path(__file__).parents[1]
EVERYWHERE = {"build", "load", "read", "write", "main"}
"""Short names whose module says what they are of."""


def public_names() -> dict[str, list[str]]:
    """Top-level functions and classes without ``_``, and the modules that define them."""
    found = defaultdict(list)
    for path in sorted([*ROOT.glob("ssl/dermssl/**/*.py"), *ROOT.glob("eval/dermeval/**/*.py")]):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    return found


def test_a_public_name_stands_in_one_module():
    # A function that runs a command bears its name; `dermssl export` and `dermeval export` are two.
    commands = Counter(command.name.replace("-", "_") for command in (*dermssl.cli.COMMANDS, *dermeval.cli.COMMANDS))
    assert not {
        name: files
        for name, files in public_names().items()
        if len(files) > max(1, commands[name]) and name not in EVERYWHERE
    }
