"""The documentation: its Python runs, its links lead to files, its commands and their options exist."""

import re
from pathlib import Path

import pytest

import dermeval.cli
import dermssl.cli
from dermssl.backbone.build import build
from dermssl.backbone.embedding import preprocessing_at
from dermssl.backbone.encoder_folder import write_encoder
from dermssl.commandline import Command, options_class
from dermssl.parser import leaves, option_string

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {
    "dermssl": {command.name: command for command in dermssl.cli.COMMANDS},
    "dermeval": {command.name: command for command in dermeval.cli.COMMANDS},
}
FOR_EVERY_COMMAND = {"--help", "--help-all", "--json", "--config"}


def named(path: Path) -> str:
    return path.name


@pytest.fixture
def prepared(tmp_path, monkeypatch) -> Path:
    """A folder with data/passion and checkpoints/run1, as the pages name them; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    small = ["--patients", "24", "--duplicates", "0", "--image-size", "48", "--workers", "1"]
    assert dermssl.cli.main(["synth", "--out", "raw", *small]) == 0
    source = ["--source", "passion", "--root", "raw", "--out", "data/passion", "--workers", "1"]
    assert dermssl.cli.main(["prepare", *source]) == 0
    encoder = Path("checkpoints/run1/encoder")
    write_encoder(build("test_vit", 32), encoder, "test_vit", preprocessing_at(32), [], "test", {})
    return tmp_path


def test_the_blocks_of_the_python_page_run_in_order(prepared):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)
    assert len(names["found"].table) == 5


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    relative = [link for link in links if "://" not in link]
    assert [link for link in relative if not (page.parent / link).exists()] == []


def commands_in(text: str) -> list[tuple[str, str, list[str]]]:
    """Each ``(program, command, options)`` in code: in backticks, and in lines that are indented or fenced."""
    code = re.findall(r"`([^`\n]+)`", text)
    code += re.findall(r"^ {4}.*$", re.sub(r"\\\n\s*", "", text), re.MULTILINE)
    found = []
    for piece in code:
        piece = piece.split("#")[0]
        for program, command, rest in re.findall(r"\b(dermssl|dermeval) ([a-z]+(?:-[a-z]+)*)((?: [^|;`]*)?)", piece):
            found.append((program, command, re.findall(r"(?<=\s)--[a-z][\w.-]*", rest)))
    return found


def options_of(program: str, command: Command) -> set[str]:
    names = {option_string(leaf.name) for leaf in leaves(options_class(program, command))}
    return names | {f"--{name}" for name in getattr(options_class(program, command), "ALIASES", ())} | FOR_EVERY_COMMAND


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_and_their_options_exist(page):
    for program, command, options in commands_in(page.read_text(encoding="utf-8")):
        assert command in PROGRAMS[program], f"{page.name}: `{program} {command}` is no command"
        unknown = set(options) - options_of(program, PROGRAMS[program][command])
        assert not unknown, f"{page.name}: `{program} {command}` has no {sorted(unknown)}"


def test_the_check_of_commands_reads_backticks_and_indented_lines():
    text = "Give `dermssl prepare --nope x`.\n\n    dermeval knn e \\\n        --k 5 | head --lines 3\n"
    assert commands_in(text) == [("dermssl", "prepare", ["--nope"]), ("dermeval", "knn", ["--k"])]


def test_the_readme_names_commands_and_fits_two_screens():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(commands_in(text)) > 10
    assert len(text.splitlines()) <= 100
