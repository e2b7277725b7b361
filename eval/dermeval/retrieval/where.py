"""The filter language of ``--where``: conditions on manifest columns, parsed here and never evaluated as Python.

    condition := column OP value | value OP column | low <= column <= high      OP: == != < <= > >=
               | column in (value, ...) | column not in (value, ...)
               | value in column                       (columns that hold lists, such as body_site)
               | column is null | column is not null
               | not condition | condition and condition | condition or condition | (condition)
    value     := 'text' | number | true | false

A missing value passes no comparison, as in SQL: ``sex != 'male'`` leaves out the rows without a sex, and
``sex is null`` finds them. For a list, ``==`` and ``in`` ask whether any of its values is equal.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dermssl.errors import InputError, did_you_mean

MAX_LENGTH = 2000
MAX_NESTING = 50
MAX_LISTED = 5000
"""Columns with more distinct values (ids) are not searched for the nearest one."""
COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("equal", "="),
    ast.NotEq: ("not_equal", "<>"),
    ast.Lt: ("less", "<"),
    ast.LtE: ("less_equal", "<="),
    ast.Gt: ("greater", ">"),
    ast.GtE: ("greater_equal", ">="),
}
TURNED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.Eq, ast.NotEq: ast.NotEq}
CONSTANTS = {"null": None, "none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Term:
    """One comparison of a column: ``op`` is a class of Python's syntax tree, ``values`` what is compared with."""

    column: str
    op: type[ast.cmpop]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Joined:
    """Conditions joined by ``and`` or ``or``, or one condition under ``not``."""

    word: str
    parts: tuple["Condition", ...]


Condition = Term | Joined


@dataclass(frozen=True)
class Where:
    """A filter as it was written, and what it says."""

    text: str
    condition: Condition

    @property
    def columns(self) -> list[str]:
        """The columns that the filter asks for."""
        return list(dict.fromkeys(test.column for test in _tests(self.condition)))


def parse_where(text: str) -> Where:
    """Parse a filter; raises InputError that points at what is not understood."""
    if len(text) > MAX_LENGTH:
        raise InputError(f"--where has {len(text)} characters, {MAX_LENGTH} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        hint = ": write == for equality" if "=" in text and "==" not in text else ""
        place = f" near character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise InputError(f"--where {_shown(text)}: not understood{place}{hint}; see docs/search.md") from None
    return Where(text, _condition(tree.body, text, 0))


def _condition(node: ast.expr, text: str, depth: int) -> Condition:
    if depth > MAX_NESTING:
        raise InputError(f"--where is nested more than {MAX_NESTING} deep")
    match node:
        case ast.BoolOp(op=op, values=values):
            word = "and" if isinstance(op, ast.And) else "or"
            return Joined(word, tuple(_condition(value, text, depth + 1) for value in values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Joined("not", (_condition(operand, text, depth + 1),))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            tests = [_test(sides[i], sides[i + 1], type(op), text) for i, op in enumerate(ops)]
            return tests[0] if len(tests) == 1 else Joined("and", tuple(tests))
    part = ast.get_source_segment(text.strip(), node) or text
    raise InputError(f"--where {_shown(text)}: {_shown(part)} is no condition such as country == 'Guinea'")


def _test(left: ast.expr, right: ast.expr, op: type[ast.cmpop], text: str) -> Term:
    """One comparison. The column may stand on either side."""
    if isinstance(left, ast.Name) and left.id.lower() not in CONSTANTS:
        column, other = left.id, right
    elif isinstance(right, ast.Name) and right.id.lower() not in CONSTANTS:
        if op is ast.In:
            return Term(right.id, ast.Eq, (_constant(left, text),))
        if op is ast.NotIn:
            return Term(right.id, ast.NotEq, (_constant(left, text),))
        if op not in TURNED:
            raise InputError(f"--where {_shown(text)}: write the column first: {right.id} is null")
        column, other, op = right.id, left, TURNED[op]
    else:
        raise InputError(f"--where {_shown(text)}: a condition compares one column with a value")
    if op in (ast.In, ast.NotIn):
        if not isinstance(other, (ast.Tuple, ast.List, ast.Set)) or not other.elts:
            raise InputError(f"--where {_shown(text)}: after `in` write values in brackets: {column} in ('a', 'b')")
        return Term(column, op, tuple(_constant(value, text) for value in other.elts))
    value = _constant(other, text)
    if (op in (ast.Is, ast.IsNot)) != (value is None):
        raise InputError(
            f"--where {_shown(text)}: write `{column} is null` or `{column} is not null` for missing values"
        )
    return Term(column, op, (value,))


def _constant(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=name) if name.lower() in CONSTANTS:
            return CONSTANTS[name.lower()]
    part = ast.get_source_segment(text.strip(), node) or ""
    raise InputError(f"--where {_shown(text)}: {_shown(part)} is no text in quotes, number, true, false or null")


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return f'"{text if len(text) <= 80 else text[:79] + "…"}"'


def _tests(condition: Condition) -> list[Term]:
    if isinstance(condition, Term):
        return [condition]
    return [test for part in condition.parts for test in _tests(part)]


def passing_rows(where: Where, table: pa.Table) -> np.ndarray:
    """Which rows of ``table`` pass, ``(N,)`` bool.

    Raises:
        InputError: an unknown column, a value that the column never has, or a comparison that its type does not allow.
    """
    return pc.fill_null(_mask(where.condition, table), False).to_numpy(zero_copy_only=False)


def explain_empty(where: Where, table: pa.Table) -> str:
    """How many rows each condition of a filter leaves, for a filter that leaves none."""
    counts = [
        f"{written(test)} leaves {int(pc.sum(pc.fill_null(_mask(test, table), False)).as_py() or 0)}"
        for test in _tests(where.condition)
    ]
    return f"--where {_shown(where.text)} leaves none of {table.num_rows} images: {'; '.join(counts)}"


def written(test: Term) -> str:
    """A comparison as text."""
    symbol = {ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not", ast.Eq: "==", ast.NotEq: "!="}
    values = ["null" if value is None else repr(value) for value in test.values]
    right = f"({', '.join(values)})" if test.op in (ast.In, ast.NotIn) else values[0]
    return f"{test.column} {symbol.get(test.op) or COMPARISONS[test.op][1]} {right}"


def _mask(condition: Condition, table: pa.Table) -> pa.ChunkedArray:
    """Three-valued truth of each row: null where a value is missing."""
    if isinstance(condition, Term):
        return _test_mask(condition, table)
    masks = [_mask(part, table) for part in condition.parts]
    if condition.word == "not":
        return pc.invert(masks[0])
    join: Callable = pc.and_kleene if condition.word == "and" else pc.or_kleene
    result = masks[0]
    for mask in masks[1:]:
        result = join(result, mask)
    return result


def _test_mask(test: Term, table: pa.Table) -> pa.ChunkedArray:
    if test.column not in table.column_names:
        raise InputError(f"--where: no column '{test.column}'; {did_you_mean(test.column, table.column_names)}")
    column = table[test.column].combine_chunks()
    if test.op in (ast.Is, ast.IsNot):
        return pc.is_null(column) if test.op is ast.Is else pc.is_valid(column)
    if not pa.types.is_list(column.type):
        return _compared(test, column)
    if test.op not in (ast.Eq, ast.NotEq, ast.In, ast.NotIn):
        raise InputError(f"--where {written(test)}: {test.column} holds lists: write 'value' in {test.column}")
    wanted = Term(test.column, {ast.NotEq: ast.Eq, ast.NotIn: ast.In}.get(test.op, test.op), test.values)
    hits = pc.list_parent_indices(column).filter(pc.fill_null(_compared(wanted, column.flatten()), False))
    found = np.zeros(len(column), dtype=bool)
    found[hits.to_numpy()] = True
    any_equal = pa.array(found, mask=column.is_null().to_numpy(zero_copy_only=False))
    return any_equal if wanted.op is test.op else pc.invert(any_equal)


def _compared(test: Term, column: pa.Array) -> pa.Array:
    for value in test.values:
        _check_value(test, value, column)
    if test.op in (ast.In, ast.NotIn):
        found = pc.is_in(column, value_set=pa.array(list(test.values)).cast(column.type))
        found = pc.if_else(pc.is_valid(column), found, pa.scalar(None, pa.bool_()))
        return found if test.op is ast.In else pc.invert(found)
    return pc.call_function(COMPARISONS[test.op][0], [column, pa.scalar(test.values[0])])


def _check_value(test: Term, value: Any, column: pa.Array) -> None:
    """Raise InputError where the value is not of the column's type, or a text that the column never has."""
    kind = column.type
    if column.null_count == len(column):
        raise InputError(f"--where: no image has a {test.column}: the column is empty")
    if pa.types.is_boolean(kind):
        fits, what = isinstance(value, bool), "true or false"
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        fits, what = isinstance(value, (int, float)) and not isinstance(value, bool), "numbers"
        if fits and abs(value) > 2**53:
            raise InputError(f"--where {test.column}: {str(value)[:30]} is too large a number")
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        fits, what = isinstance(value, str), "text in quotes"
    else:
        raise InputError(f"--where: {test.column} cannot be filtered; it holds {kind}")
    if not fits:
        raise InputError(f"--where {written(test)}: {test.column} holds {what}")
    if isinstance(value, str) and test.op in (ast.Eq, ast.NotEq, ast.In, ast.NotIn):
        _check_text(test.column, value, column)


def _check_text(name: str, value: str, column: pa.Array) -> None:
    known = pc.unique(column)
    if pc.is_in(pa.scalar(value), value_set=known).as_py():
        return
    # A value that is never there is more often misspelt than meant.
    near = did_you_mean(value, known.drop_null().to_pylist()) if len(known) <= MAX_LISTED else "see manifest.parquet"
    raise InputError(f"--where: no image has {name} '{value}'; {near}")


def sql_where(where: Where, table: pa.Table) -> str:
    """The filter in SQL (of DataFusion, which LanceDB uses), after the checks of `passing_rows`."""
    passing_rows(where, table.slice(0, table.num_rows))
    lists = {name for name in where.columns if pa.types.is_list(table.schema.field(name).type)}
    return _sql(where.condition, lists)


def _sql(condition: Condition, lists: set[str]) -> str:
    if isinstance(condition, Joined):
        parts = [f"({_sql(part, lists)})" for part in condition.parts]
        return f"NOT {parts[0]}" if condition.word == "not" else f" {condition.word.upper()} ".join(parts)
    column, values = f"`{condition.column}`", [_sql_value(value) for value in condition.values]
    if condition.op in (ast.Is, ast.IsNot):
        return f"{column} IS {'NOT ' if condition.op is ast.IsNot else ''}NULL"
    negated = "NOT " if condition.op in (ast.NotIn, ast.NotEq) else ""
    if condition.column in lists:
        return f"{negated}array_has_any({column}, [{', '.join(values)}])"
    if condition.op in (ast.In, ast.NotIn):
        return f"{column} {negated}IN ({', '.join(values)})"
    return f"{column} {COMPARISONS[condition.op][1]} {values[0]}"


def _sql_value(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
