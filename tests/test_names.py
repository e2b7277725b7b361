"""A public name stands in one module only, so that a reader finds it by its name alone."""

import ast
from collections import defaultdict
from pathlib import Path

import dermeval.cli
import dermssl.cli

ROOT = Path(__file__).parents[1]
EVERYWHERE = {"build", "load", "read", "write", "main"}
"""Short names whose module says what they are of."""
CLASHES = {
    "main",
    "read",
    "search",
}
"""Names that stand in two modules today. The list only shrinks: rename one of the two and take the name out."""


def commands() -> set[str]:
    """Functions that run a command: they bear its name."""
    return {command.name.replace("-", "_") for command in (*dermssl.cli.COMMANDS, *dermeval.cli.COMMANDS)}


def public_names() -> dict[str, list[str]]:
    """Top-level functions and classes without ``_``, and the modules that define them."""
    found = defaultdict(list)
    for path in sorted([*ROOT.glob("ssl/dermssl/**/*.py"), *ROOT.glob("eval/dermeval/**/*.py")]):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    return found


def test_a_public_name_stands_in_one_module():
    free = EVERYWHERE | commands()
    twice = {name: files for name, files in public_names().items() if len(files) > 1 and name not in free}
    assert not {name: files for name, files in twice.items() if name not in CLASHES}


def test_the_list_of_clashes_shrinks():
    twice = {name for name, files in public_names().items() if len(files) > 1}
    assert not CLASHES - twice, "these clash no more: take them out of the list"
