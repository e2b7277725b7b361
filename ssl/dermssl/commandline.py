"""One definition for the command line, the YAML config and the help: a typed dataclass per command.

Each field becomes an option, its attribute docstring the help, its default the default; nested dataclasses
become dotted options (``--training.epochs``) and nested YAML. jsonargparse parses and checks the types.
Both programs (`dermssl`, `dermeval`) start here, so errors and exit codes are the same everywhere.
"""

import argparse
import dataclasses
import importlib
import inspect
import io
import itertools
import logging
import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser, Namespace

from dermssl.atomic import locked
from dermssl.errors import InputError, did_you_mean, shortened, tell
from dermssl.files import REPORT_MARK, is_report, read_yaml, require_output_file, write_json

log = logging.getLogger("dermssl")


class Report(NamedTuple):
    """What a command says when it is done: the page for a person, the same as data for ``--json``."""

    text: str
    data: dict[str, Any]


class Command(NamedTuple):
    """One subcommand. ``options`` and ``run`` are "module:name", imported only when the command is used."""

    name: str
    summary: str
    options: str
    run: str
    aliases: Mapping[str, str] = MappingProxyType({})
    writes: str | None = None
    """The option that names the folder which the command writes; it is locked while the command runs."""


def positional(**kwargs: Any) -> Any:
    """A dataclass field that is given without an option name."""
    return dataclasses.field(metadata={"positional": True}, **kwargs)


class Parser(ArgumentParser):
    """Argument parser whose errors are one line and never guess at abbreviations."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what argparse would print and exit with, as an InputError of one plain line."""
        message = re.sub(
            r'Parser key "([^"]+)"(?: element \d+)?:',
            lambda key: option_string(key[1]) + ":",
            " ".join(message.split()),
        )
        raise InputError(_in_words(message))


KINDS = {
    "PositiveInt": "a whole number of 1 or more",
    "NonNegativeInt": "a whole number of 0 or more",
    "PositiveFloat": "a number above 0",
    "NonNegativeFloat": "a number of 0 or more",
    "ClosedUnitInterval": "a number from 0 to 1",
    "OpenUnitInterval": "a number between 0 and 1",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


LARGEST: dict[type, float] = {int: 2**32 - 1, float: 1e15}
"""Largest values of options: seeds above 32 bits and endless numbers end in errors of the libraries that get them."""


def _in_words(message: str) -> str:
    """The parser's message without the names of Python types."""
    for pattern, plain in (
        (r"Does not validate .* Errors: - (Expected|Not of type) (.*?) - .* Given value: ", r"\1 \2. Got value: "),
        (r"Not of type (\w+): .*?(\S+?)(?: does not conform.*|$)", r"expected \1. Got value: \2"),
        (r"Expected a <class '(\w+)'>", r"expected \1"),
    ):
        message = re.sub(pattern, plain, message)
    message = re.sub(r"expected (\w+)\. Got", lambda kind: f"expected {KINDS.get(kind[1], kind[1])}. Got", message)
    return message.replace("Expected a typing.Literal", "expected one of ")


def main(program: str, summary: str, commands: Sequence[Command], argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code (0 done, 2 bad input, 3 health, 75 pre-empted, 1 else)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(format="%(message)s", level=logging.ERROR if rank else logging.INFO, stream=sys.stderr)
    for noisy in ("PIL", "faiss", "matplotlib", "timm", "accelerate", "torch", "tensorboard"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold bytes that no text can show
    with _interrupted_by_sigterm():
        try:
            return _dispatch(program, summary, {c.name: c for c in commands}, arguments)
        except (Exception, KeyboardInterrupt) as error:
            return tell(program, error)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that temporary files and locks are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dispatch(program: str, summary: str, commands: dict[str, Command], arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(program, summary, commands))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"{program} {importlib.import_module('dermssl').__version__}")
        return 0
    name = arguments[0]
    if name not in commands:
        raise InputError(f"unknown command '{name}'; {did_you_mean(name, commands)}")
    command = commands[name]
    options_type = _import(command.options)
    if {"-h", "--help", "--help-all"} & set(arguments):
        hidden = set() if "--help-all" in arguments else _left_out_of_help(options_type, arguments)
        make_parser(f"{program} {name}", command, options_type, hidden).print_help()
        if hidden:
            print(f"\nFurther options are rarely needed: `{program} {name} --help-all` explains all of them.")
        return 0
    parser = make_parser(f"{program} {name}", command, options_type)
    options, json_file = parse(parser, options_type, arguments[1:], command.aliases)
    written = getattr(options, command.writes) if command.writes else None
    if json_file is not None:
        _require_report_file(Path(json_file), written)
    with locked(Path(written)) if written else nullcontext():
        report = _import(command.run)(options)
    if report is not None:
        print(report.text)
        if json_file is not None:
            write_json(Path(json_file), {REPORT_MARK: f"{program} {name}"} | report.data)
    return 0


def _require_report_file(path: Path, written: str | None) -> None:
    require_output_file(path, "--json", is_report)
    if written and path.resolve() == Path(written).resolve():
        raise InputError(f"--json {path} is the folder that the command writes: give another name")


def _overview(program: str, summary: str, commands: dict[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [f"  {c.name:<{width}}  {c.summary}" for c in commands.values()]
    return "\n".join(
        [f"usage: {program} COMMAND [options]", "", summary, "", "commands:", *lines, "", f"{program} COMMAND --help"]
    )


def _import(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(importlib.import_module(module), name)


def make_parser(program: str, command: Command, options_type: type, hidden: Collection[str] = ()) -> Parser:
    """The parser of one command, with ``--config`` for YAML and ``--json`` for the report.

    The options class may have ``COMMON``, the dotted names of the options that the help shows first.

    Args:
        program: name in the usage line.
        command: the command.
        options_type: its options dataclass.
        hidden: dotted names of options and sections that the help leaves out.
    """
    named = [field.name.upper() for field in dataclasses.fields(options_type) if field.metadata.get("positional")]
    parser = Parser(
        prog=program,
        usage=" ".join([program, *named, "[options]"]),
        description=textwrap.dedent(options_type.__doc__ or command.summary),
    )
    common: tuple[str, ...] = getattr(options_type, "COMMON", ())
    first = parser.add_argument_group("common options") if common else parser
    first.add_argument("--config", type=str, metavar="FILE", help="YAML file with any of the options below")
    first.add_argument("--json", type=str, metavar="FILE", help="write what is printed as JSON too")
    groups: dict[str, Any] = dict.fromkeys(common, first)
    if common:
        other: Any = parser.add_argument_group("further options")
        groups = {name: other for name in option_names(options_type) if "." not in name} | groups
    _add_options(parser, options_type, "", command.aliases, groups, hidden)
    return parser


def _left_out_of_help(options_type: type, arguments: list[str]) -> set[str]:
    """What the help leaves out: options in ``RARE``, and of the sections in ``ONE_SECTION_OF`` all but the chosen one.

    ``ONE_SECTION_OF`` of an options class is the name of an option and the sections that it chooses from, for instance
    ``("method", ("dino", "simclr"))``. What is not on the command line has its default.
    """
    rare = set(getattr(options_type, "RARE", ()))
    option, sections = getattr(options_type, "ONE_SECTION_OF", ("", ()))
    if not option:
        return rare
    (default,) = [_default(field) for field in dataclasses.fields(options_type) if field.name == option]
    return rare | set(sections) - {_value_of(option_string(option), arguments) or default}


def _add_options(
    parser: Any,
    options_type: type,
    prefix: str,
    aliases: Mapping[str, str],
    groups: Mapping[str, Any],
    hidden: Collection[str],
) -> None:
    """Add one option per field to ``parser``, or to the group that ``groups`` names for it."""
    documented = [kind for kind in reversed(options_type.__mro__) if dataclasses.is_dataclass(kind)]
    help_texts = {p.arg_name: p.description for kind in documented for p in parse_from_object(kind).params}
    hints = get_type_hints(options_type)
    for field in dataclasses.fields(options_type):
        name, kind = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            title = inspect.getdoc(kind) or ""
            group = parser.add_argument_group(f"{name} ({title.splitlines()[0].rstrip('.')})")
            _add_options(group, kind, name + ".", aliases, groups, hidden)
            continue
        keywords: dict[str, Any] = {"help": " ".join((help_texts.get(field.name) or "").split())}
        if get_origin(kind) is list:
            keywords |= {"nargs": "+", "type": get_args(kind)[0]}
        elif kind is bool:
            keywords |= {"type": bool, "nargs": "?", "const": True}
        else:
            keywords["type"] = kind
        if _is_required(field):
            keywords["help"] += " [required]"
        else:
            keywords["default"] = _default(field)
        if field.metadata.get("positional"):
            keywords["nargs"] = "*" if "nargs" in keywords else "?"
            parser.add_argument(name, **keywords)
        else:
            short = [alias for alias, target in aliases.items() if target == f"--{name}"]
            keywords["help"] += f" (also {short[0]})" if short else ""
            if name in hidden or (prefix.rstrip(".") in hidden and name not in groups):
                keywords["help"] = argparse.SUPPRESS
            groups.get(name, parser).add_argument(option_string(name), **keywords)


def option_string(name: str) -> str:
    """``short_side`` -> ``--short-side``; dotted names keep the spelling of their config key."""
    return "--" + (name if "." in name else name.replace("_", "-"))


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def parse(
    parser: Parser, options_type: type, arguments: list[str], aliases: Mapping[str, str] | None = None
) -> tuple[Any, str | None]:
    """Arguments -> (filled dataclass, path for the JSON report). YAML first, command line over it."""
    known = [o for action in parser._actions for o in action.option_strings]
    arguments = [_expand(a, aliases or {}, known) for a in arguments]
    for argument in arguments:
        option = argument.split("=")[0]
        if option.startswith("--") and len(option) > 2 and option not in known:
            raise InputError(f"unknown option {option}; {did_you_mean(option, known)}")
    config_file = _value_of("--config", arguments)
    config = _checked_config(Path(config_file), options_type, parser, aliases or {}) if config_file else {}
    parser.set_defaults(config)
    try:
        namespace = parser.parse_args(arguments)
        options = _build(options_type, namespace)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(str(error)) from None
    return options, namespace.json


def _expand(argument: str, aliases: Mapping[str, str], known: list[str]) -> str:
    """Aliases, and ``_`` for ``-`` in option names (and the reverse), as the known options spell them."""
    if not argument.startswith("--"):
        return argument
    option, equals, value = argument.partition("=")
    spelled = {name.replace("-", "_"): name for name in known}
    option = aliases.get(option, spelled.get(option.replace("-", "_"), option))
    return option + equals + value


def _value_of(option: str, arguments: list[str]) -> str | None:
    """The value of an option that may be given once, None where it is not given."""
    values = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if name == option:
            values.append(value if equals else following)
    if len(values) > 1:
        raise InputError(f"{option} is given {len(values)} times: give it once")
    if values == [None]:
        raise InputError(f"{option} needs " + ("the path of a YAML file" if option == "--config" else "a value"))
    return values[0] if values else None


def _checked_config(path: Path, options_type: type, parser: Parser, aliases: Mapping[str, str]) -> dict[str, Any]:
    """The YAML of ``path`` as dotted keys, each known and of the right type."""
    valid = option_names(options_type)
    longer = {alias.removeprefix("--"): option.removeprefix("--") for alias, option in aliases.items()}
    flat = {longer.get(key, key): value for key, value in flatten(read_yaml(path)).items()}
    for key, value in flat.items():
        if key not in valid:
            raise InputError(f"{path}: unknown key '{key}'; {did_you_mean(key, valid)}")
        if valid[key] is list and not isinstance(value, list):
            flat[key] = [value]
    # The parser requires what has no option name, though it may stand on the command line instead.
    elsewhere = {
        field.name: [""] if valid[field.name] is list else ""
        for field in dataclasses.fields(options_type)
        if field.metadata.get("positional")
    }
    try:
        parser.parse_object(elsewhere | flat)
    except (InputError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from None
    return flat


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def option_names(options_type: type, prefix: str = "") -> dict[str, type]:
    """Dotted names of all leaves of an options dataclass; ``list`` marks those that take several values."""
    names: dict[str, type] = {}
    hints = get_type_hints(options_type)
    for field in dataclasses.fields(options_type):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            names |= option_names(kind, f"{prefix}{field.name}.")
        else:
            names[prefix + field.name] = list if get_origin(kind) is list else object
    return names


def _build(options_type: type, namespace: Namespace, prefix: str = "") -> Any:
    hints = get_type_hints(options_type)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options_type):
        kind, value = hints[field.name], getattr(namespace, field.name)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            value = _build(kind, value, f"{prefix}{field.name}.")
        elif _is_required(field) and value in (None, []):
            option = field.name.upper() if field.metadata.get("positional") else option_string(prefix + field.name)
            raise InputError(f"{option} is missing: give it on the command line or in the --config file")
        values[field.name] = _plain(value, option_string(prefix + field.name))
    return options_type(**values)


def _plain(value: Any, option: str) -> Any:
    """jsonargparse's restricted numbers as ordinary ones, which YAML and JSON can write; none is endless or huge."""
    if isinstance(value, list):
        return [_plain(item, option) for item in value]
    if isinstance(value, bool):
        return value
    if not isinstance(value, (int, float)):
        return value
    kind: type[int | float] = int if isinstance(value, int) else float
    if not abs(value) <= LARGEST[kind]:
        raise InputError(f"{option}: {shortened(value, 40)} cannot be used: give a number up to {LARGEST[kind]:g}")
    return kind(value)
