"""Turns a typed dataclass per command into its command line, its YAML config and its help.

Each field is an option, with the attribute docstring as its help. Nested dataclasses give dotted options
(``--training.epochs``) and nested YAML. jsonargparse parses and checks the types.
"""

import argparse
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from dermssl.errors import InputError, did_you_mean, shortened
from dermssl.files import read_yaml

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
"""The largest values of options: libraries fail with seeds above 32 bits and with infinite numbers."""
MOST_KEYS = 1000
"""The largest number of keys in a config."""


class Leaf(NamedTuple):
    """One option: its dotted name, the dataclass that defines it, its type, and its default (`MISSING`: required)."""

    name: str
    owner: type
    kind: Any
    default: Any
    is_positional: bool

    @property
    def takes_several(self) -> bool:
        """Whether its value is a list."""
        return get_origin(self.kind) is list


def positional(**kwargs: Any) -> Any:
    """A dataclass field that is given without an option name."""
    return dataclasses.field(metadata={"positional": True}, **kwargs)


def leaves(options_type: type, prefix: str = "") -> Iterator[Leaf]:
    """All options of a dataclass and of its nested dataclasses."""
    hints = get_type_hints(options_type)
    for field in dataclasses.fields(options_type):
        kind, name = hints[field.name], prefix + field.name
        if _is_section(kind):
            yield from leaves(kind, name + ".")
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            yield Leaf(name, options_type, kind, default, bool(field.metadata.get("positional")))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def option_string(name: str) -> str:
    """``short_side`` -> ``--short-side``. A dotted name is spelled as in the config."""
    return "--" + (name if "." in name else name.replace("_", "-"))


class _HelpFormatter(DefaultHelpFormatter):
    """Adds to the help of an option, in words, the values that it takes and its default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        kind = getattr(action, "_typehint", None) or action.type
        takes = "" if kind is bool else KINDS.get(getattr(kind, "__name__", ""), "")
        shown = str(action.default).lower() if kind is bool else "%(default)s"
        default = "" if action.default in (None, [], argparse.SUPPRESS) else f"default: {shown}"
        ending = "; ".join(filter(None, (takes, default)))
        return f"{action.help} ({ending})" if ending else action.help or ""


class Parser(ArgumentParser):
    """An argument parser with errors of one line and without abbreviated options."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an InputError of one line, without names of Python types, instead of printing and exiting."""
        message = " ".join(message.split())
        message = re.sub(r'Parser key "([^"]+)"(?: element \d+)?:', lambda key: option_string(key[1]) + ":", message)
        for pattern, plain in (
            (r"Does not validate .* Errors: - (Expected|Not of type) (.*?) - .* Given value: ", r"\1 \2. Got value: "),
            (r"Not of type (\w+): .*?(\S+?)(?: does not conform.*|$)", r"expected \1. Got value: \2"),
            (r"Expected a <class '(\w+)'>", r"expected \1"),
            (r"Exceeds the limit \(\d+ digits\).*", "the number has too many digits"),
        ):
            message = re.sub(pattern, plain, message)
        message = re.sub(r"expected (\w+)\. Got", lambda kind: f"expected {KINDS.get(kind[1], kind[1])}. Got", message)
        raise InputError(message.replace("Expected a typing.Literal", "expected one of "))


def make_parser(program: str, options_type: type, hidden: Collection[str] = ()) -> Parser:
    """The parser of one command, with ``--config`` for YAML and ``--json`` for the report.

    ``options_type.COMMON``, if there is one, has the dotted names of the options that the help shows first; ``ALIASES``
    maps short names to dotted ones. ``hidden`` has the dotted names of options and sections that the help leaves out.
    """
    options = list(leaves(options_type))
    named = [leaf.name.upper() for leaf in options if leaf.is_positional]
    parser = Parser(
        prog=program,
        usage=" ".join([program, *named, "[options]"]),
        description=textwrap.dedent(options_type.__doc__ or ""),
    )
    common: tuple[str, ...] = getattr(options_type, "COMMON", ())
    first = parser.add_argument_group("common options") if common else parser
    first.add_argument("--config", type=str, metavar="FILE", help="YAML file with any of the options below")
    first.add_argument("--json", type=str, metavar="FILE", help="write what is printed as JSON too")
    groups: dict[str, Any] = dict.fromkeys(common, first)
    if common:
        other: Any = parser.add_argument_group("further options")
        groups = {leaf.name: other for leaf in options if "." not in leaf.name} | groups
    short = {name: alias for alias, name in _aliases(options_type).items()}
    sections: dict[str, Any] = {"": parser}
    for leaf in options:
        section = leaf.name.rpartition(".")[0]
        if section not in sections:
            title = (inspect.getdoc(leaf.owner) or "").splitlines()[0].rstrip(".")
            sections[section] = parser.add_argument_group(f"{section} ({title})")
        keywords = _keywords(leaf)
        if leaf.is_positional:
            parser.add_argument(leaf.name, **keywords | {"nargs": "*" if leaf.takes_several else "?"})
            continue
        if leaf.name in short:
            keywords["help"] += f" (also --{short[leaf.name]})"
        if leaf.name in hidden or (section in hidden and leaf.name not in groups):
            keywords["help"] = argparse.SUPPRESS
        groups.get(leaf.name, sections[section]).add_argument(option_string(leaf.name), **keywords)
    return parser


def _keywords(leaf: Leaf) -> dict[str, Any]:
    """The arguments of argparse's ``add_argument``: help, type and default."""
    help_text = _help_texts(leaf.owner).get(leaf.name.rpartition(".")[2]) or ""
    keywords: dict[str, Any] = {"help": " ".join(help_text.split()), "type": leaf.kind}
    if leaf.takes_several:
        keywords |= {"nargs": "+", "type": get_args(leaf.kind)[0]}
    elif leaf.kind is bool:
        keywords |= {"nargs": "?", "const": True}
    if leaf.default is MISSING:
        keywords["help"] += " [required]"
    else:
        keywords["default"] = leaf.default
    return keywords


@functools.cache
def _help_texts(options_type: type) -> dict[str, str | None]:
    documented = [kind for kind in reversed(options_type.__mro__) if dataclasses.is_dataclass(kind)]
    return {p.arg_name: p.description for kind in documented for p in parse_from_object(kind).params}


def hidden_options(options_type: type, arguments: list[str]) -> set[str]:
    """The options and sections that the help leaves out.

    These are the options in ``options_type.RARE``, and the sections in ``options_type.ONE_SECTION_OF`` that are not
    chosen. ``ONE_SECTION_OF`` has the option that chooses and the sections, such as ``("method", ("dino", "simclr"))``.
    """
    rare = set(getattr(options_type, "RARE", ()))
    option, sections = getattr(options_type, "ONE_SECTION_OF", ("", ()))
    if not option:
        return rare
    (default,) = [leaf.default for leaf in leaves(options_type) if leaf.name == option]
    return rare | set(sections) - {_value_of(option_string(option), arguments) or default}


def _aliases(options_type: type) -> dict[str, str]:
    return getattr(options_type, "ALIASES", {})


def parse(program: str, options_type: type, arguments: list[str]) -> tuple[Any, str | None]:
    """The filled dataclass, and the path for the JSON report. Command line options replace those of the YAML."""
    parser = make_parser(program, options_type)
    known = [option for action in parser._actions for option in action.option_strings]
    aliases = {f"--{alias}": option_string(name) for alias, name in _aliases(options_type).items()}
    spelled = {given.replace("-", "_"): option for given, option in ({k: k for k in known} | aliases).items()}
    arguments = [_expand(argument, spelled) for argument in arguments]
    for option in (argument.split("=")[0] for argument in arguments):
        if option.startswith("--") and len(option) > 2 and option not in known:
            raise InputError(f"unknown option {option}; {did_you_mean(option, known)}")
    config_file = _value_of("--config", arguments)
    if config_file is not None:
        parser.set_defaults(_checked_config(Path(config_file), options_type, parser))
    try:
        namespace = parser.parse_args(arguments)
        _require_values(options_type, namespace)
        options = _build(options_type, namespace)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(str(error)) from None
    return options, namespace.json


def _require_values(options_type: type, namespace: Namespace) -> None:
    """Raise InputError if a required option is missing, or if one is empty that needs a value.

    It may be a variable of the shell that is not set, or a key of the config without a value.
    """
    for leaf in leaves(options_type):
        given = namespace[leaf.name]
        option = leaf.name.upper() if leaf.is_positional else option_string(leaf.name)
        none = given is None or given == []
        if none and leaf.default is MISSING:
            raise InputError(f"{option} is missing: give it on the command line or in the --config file")
        may_be_none = leaf.default in (None, []) or type(None) in get_args(leaf.kind)
        if (none and not may_be_none) or "" in (given if leaf.takes_several else [given]):
            raise InputError(f"{option} is empty: give a value, or leave it out")


def _expand(argument: str, spelled: Mapping[str, str]) -> str:
    """``argument`` as the known option, if an alias stands for it or ``_`` and ``-`` are exchanged."""
    option, equals, value = argument.partition("=")
    known = spelled.get(option.replace("-", "_"), option) if argument.startswith("--") else option
    return known + equals + value


def _value_of(option: str, arguments: list[str]) -> str | None:
    """The value of an option, None if it is not given. Raises InputError if it is given twice or has no value."""
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


def _checked_config(path: Path, options_type: type, parser: Parser) -> dict[str, Any]:
    """The YAML of ``path`` by dotted keys. Raises InputError for an unknown key or a value of a wrong type."""
    valid = {leaf.name: leaf for leaf in leaves(options_type)}
    aliases = _aliases(options_type)
    try:
        given = flatten(read_yaml(path))
    except RecursionError:
        raise InputError(f"{path} has too many keys or nested sections: leave out references (`*name`)") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    for alias, name in aliases.items():
        if {alias, name} <= set(given):
            raise InputError(f"{path}: '{alias}' and '{name}' are the same option: keep one of them")
    flat = {aliases.get(key, key): value for key, value in given.items()}
    for key, value in flat.items():
        if key not in valid:
            raise InputError(f"{path}: unknown key '{key}'; {did_you_mean(key, valid)}")
        if valid[key].takes_several and not isinstance(value, list):
            flat[key] = [value]
    # The parser requires positional arguments, which may be on the command line instead.
    elsewhere = {name: [""] if leaf.takes_several else "" for name, leaf in valid.items() if leaf.is_positional}
    try:
        parser.parse_object(elsewhere | flat)
    except (InputError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from None
    return flat


def refuse_unused(options: Any, names: Iterable[str], needed: str) -> None:
    """Raise InputError if one of the options ``names``, which count only with the option ``needed``, is not default."""
    for name in names:
        if getattr(options, name) != getattr(type(options), name):
            raise InputError(f"{option_string(name)} counts only with {needed}: leave it out, or give {needed}")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted keys. Raises RecursionError if it is too deep or wide, ValueError for a key twice."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if len(flat) > MOST_KEYS:  # YAML's references can make an endless tree
            raise RecursionError
        below = flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        for name in flat.keys() & below.keys():
            raise ValueError(f"key '{name}' stands twice: keep one")
        flat |= below
    return flat


def _build(options_type: type, namespace: Namespace, prefix: str = "") -> Any:
    values, hints = vars(namespace), get_type_hints(options_type)
    built = {}
    for name in (field.name for field in dataclasses.fields(options_type)):
        kind, value, dotted = hints[name], values[name], prefix + name
        built[name] = _build(kind, value, f"{dotted}.") if _is_section(kind) else _plain(value, option_string(dotted))
    return options_type(**built)


def _plain(value: Any, option: str) -> Any:
    """Ordinary numbers for jsonargparse's own, which YAML and JSON cannot write. Raises InputError for huge ones."""
    if isinstance(value, list):
        return [_plain(item, option) for item in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    kind: type[int | float] = int if isinstance(value, int) else float
    if not abs(value) <= LARGEST[kind]:
        raise InputError(f"{option}: {shortened(value, 40)} cannot be used: give a number up to {LARGEST[kind]:g}")
    return kind(value)
