"""The filter language of ``--where``: conditions on manifest columns, parsed here and never run as Python.

docs/search.md has the grammar. A missing value passes no comparison, as in SQL: ``sex != 'male'`` leaves out the rows
without a sex, and ``sex is null`` finds them. For a list, ``==`` and ``in`` ask whether any of its values is equal.
"""

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dermssl.errors import InputError, did_you_mean, shortened

MAX_LENGTH = 2000
MAX_NESTING = 20
MAX_LISTED = 5000
"""In columns with more distinct values (ids) the nearest value is not searched for."""
SYMBOLS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
SYMBOLS |= {ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not"}
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!=", "in": "==", "not in": "!="}
"""The operator that replaces one whose value stands before the column."""
NEGATED = {"!=": "==", "not in": "in", "is not": "is"}
ORDERS = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
KINDS: dict[Callable, tuple[tuple[type, ...], str]] = {
    pa.types.is_boolean: ((bool,), "true or false"),
    pa.types.is_integer: ((int, float), "numbers"),
    pa.types.is_floating: ((int, float), "numbers"),
    pa.types.is_string: ((str,), "text in quotes"),
    pa.types.is_large_string: ((str,), "text in quotes"),
}
"""For each type of column that can be filtered: the types of values to compare it with, and their name."""
LARGEST_NUMBER = 2**53
CONSTANTS = {"null": None, "none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Term:
    """One comparison of a column with ``values``; ``op`` is a symbol of `SYMBOLS`."""

    column: str
    op: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        values = ["null" if value is None else repr(value) for value in self.values]
        return f"{self.column} {self.op} " + (f"({', '.join(values)})" if self.op.endswith("in") else values[0])


@dataclass(frozen=True)
class Joined:
    """Conditions joined by ``and`` or ``or``, or one condition under ``not``."""

    word: str
    parts: tuple["Condition", ...]

    def __str__(self) -> str:
        shown = [f"({part})" if isinstance(part, Joined) else str(part) for part in self.parts]
        return f"not {shown[0]}" if self.word == "not" else f" {self.word} ".join(shown)


Condition = Term | Joined


def parse_where(text: str) -> Condition:
    """Parse a filter; raises InputError that quotes the part that is not understood."""
    if not text.strip():
        raise InputError("--where is empty: leave it out, or write a condition such as country == 'Guinea'")
    if len(text) > MAX_LENGTH:
        raise InputError(f"--where has {len(text)} characters, {MAX_LENGTH} are allowed")
    try:
        return _condition(ast.parse(text.strip(), mode="eval").body)
    except InputError as error:
        raise InputError(f"--where {_quoted(text)}: {error}") from None
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        hint = ": write == for equality" if "=" in text and "==" not in text else ""
        where = f" near character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise InputError(f"--where {_quoted(text)}: not understood{where}{hint}; see docs/search.md") from None


def _condition(node: ast.expr, depth: int = 0) -> Condition:
    """Python's syntax tree as conditions; every other syntax is refused."""
    if depth > MAX_NESTING:
        raise InputError(f"conditions are nested more than {MAX_NESTING} deep")
    match node:
        case ast.BoolOp(op=op, values=values):
            word = "and" if isinstance(op, ast.And) else "or"
            return Joined(word, tuple(_condition(value, depth + 1) for value in values))
        case ast.UnaryOp(op=ast.Not(), operand=ast.UnaryOp(op=ast.Not(), operand=operand)):
            return _condition(operand, depth + 1)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Joined("not", (_condition(operand, depth + 1),))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            parts = [_comparison(sides[i], SYMBOLS[type(op)], sides[i + 1]) for i, op in enumerate(ops)]
            return parts[0] if len(parts) == 1 else Joined("and", tuple(parts))
    raise InputError(f"{_quoted(ast.unparse(node))} is no condition such as country == 'Guinea'")


def _comparison(left: ast.expr, op: str, right: ast.expr) -> Term:
    column = _column(left)
    if column is None:
        column = _column(right)
        if column is None:
            raise InputError("a condition compares one column with a value")
        if op not in MIRRORED:
            raise InputError(f"write the column first: {column} is null")
        op, right = MIRRORED[op], left
    elif op in ("in", "not in"):
        # Python reads one value in round brackets as the value itself.
        values = right.elts if isinstance(right, (ast.Tuple, ast.List, ast.Set)) else [right]
        if not values:
            raise InputError(f"after `in` write values in brackets: {column} in ('a', 'b')")
        return Term(column, op, tuple(map(_value, values)))
    value = _value(right)
    if op.startswith("is") != (value is None):
        raise InputError(f"write `{column} is null` or `{column} is not null` for missing values")
    return Term(column, op, (value,))


def _column(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) and node.id.lower() not in CONSTANTS else None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() as text) if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError("a text holds an incomplete character")
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Name(id=name) if name.lower() in CONSTANTS:
            return CONSTANTS[name.lower()]
    raise InputError(f"{_quoted(ast.unparse(node))} is no text in quotes, number, true, false or null")


def _quoted(text: str) -> str:
    return f'"{shortened(text, 80)}"'


def comparisons(condition: Condition) -> list[Term]:
    """All comparisons of a filter, from left to right."""
    if isinstance(condition, Term):
        return [condition]
    return [found for part in condition.parts for found in comparisons(part)]


def passing_rows(condition: Condition, table: pa.Table) -> np.ndarray:
    """Which rows of ``table`` pass, ``(N,)`` bool; InputError if none passes or the filter does not fit the columns."""
    passed = _passed(condition, table)
    if not passed.any():
        counts = [f"{part} leaves {_passed(part, table).sum()}" for part in comparisons(condition)]
        told = f"--where {_quoted(str(condition))} leaves none of {table.num_rows} images"
        raise InputError(f"{told}: {'; '.join(counts)}")
    return passed


def _passed(condition: Condition, table: pa.Table) -> np.ndarray:
    return _mask(condition, table).fill_null(False).to_numpy(zero_copy_only=False)


def to_sql(condition: Condition, schema: pa.Schema, negated: bool = False) -> str:
    """A filter that `passing_rows` accepts, or its opposite, as DataFusion's SQL for a table of the given schema.

    Only single comparisons are negated, and those of missing values left out: DataFusion simplifies ``sex != 'a' OR
    sex != 'b'`` to true, also without a sex.
    """
    if isinstance(condition, Joined):
        if condition.word == "not":
            return to_sql(condition.parts[0], schema, not negated)
        word = " AND " if (condition.word == "and") != negated else " OR "
        return word.join(f"({to_sql(part, schema, negated)})" for part in condition.parts)
    if condition.op in NEGATED:
        return to_sql(Term(condition.column, NEGATED[condition.op], condition.values), schema, not negated)
    positive = _term_sql(condition, schema)
    return f"NOT ({positive}) AND `{condition.column}` IS NOT NULL" if negated else positive


def _term_sql(condition: Term, schema: pa.Schema) -> str:
    """A comparison that is not negated as SQL."""
    name = f"`{condition.column}`"
    if condition.op == "is":
        return f"{name} IS NULL"
    values = ["'" + v.replace("'", "''") + "'" if isinstance(v, str) else str(v).lower() for v in condition.values]
    kind = schema.field(condition.column).type
    if pa.types.is_floating(kind):  # rounded as in `_compared`: DataFusion does not round after NOT
        values = [repr(float(kind.to_pandas_dtype()(value))) for value in condition.values]
    if pa.types.is_integer(kind):
        name, values = f"CAST({name} AS DOUBLE)", [repr(float(value)) for value in condition.values]
    if pa.types.is_list(kind):
        return f"array_has_any({name}, [{', '.join(values)}])"
    return f"{name} IN ({', '.join(values)})" if condition.op in ("==", "in") else f"{name} {condition.op} {values[0]}"


def _mask(condition: Condition, table: pa.Table) -> pa.Array:
    """Whether each row passes; null if that depends on a missing value."""
    if isinstance(condition, Term):
        return _compared(condition, table)
    masks = [_mask(part, table) for part in condition.parts]
    if condition.word == "not":
        return pc.invert(masks[0])
    return functools.reduce(pc.and_kleene if condition.word == "and" else pc.or_kleene, masks)


def _compared(test: Term, table: pa.Table) -> pa.Array:
    if test.column not in table.column_names:
        raise InputError(f"--where: no column '{test.column}'; {did_you_mean(test.column, table.column_names)}")
    column = table[test.column].combine_chunks()
    if test.op in NEGATED:
        return pc.invert(_compared(Term(test.column, NEGATED[test.op], test.values), table))
    if test.op == "is":
        return pc.is_null(column)
    holds_lists = pa.types.is_list(column.type)
    values = column.flatten() if holds_lists else column
    _check_values(test, column, values)
    # A column of float32 does not hold 0.1 or 16777217 but the nearest float32, so values are rounded alike.
    floating = pa.types.is_floating(values.type)
    cast = values.type.to_pandas_dtype() if floating else lambda value: value
    scalars = [pa.scalar(cast(value), values.type if floating else None) for value in test.values]
    if test.op in ORDERS:
        return ORDERS[test.op](values, scalars[0])
    equal = functools.reduce(pc.or_kleene, (pc.equal(values, scalar) for scalar in scalars))
    if not holds_lists:
        return equal
    found = np.zeros(len(column), dtype=bool)
    found[pc.list_parent_indices(column).filter(equal.fill_null(False)).to_numpy()] = True
    return pa.array(found, mask=column.is_null().to_numpy(zero_copy_only=False))


def _check_values(test: Term, column: pa.Array, values: pa.Array) -> None:
    """Raise InputError if a value is not of the column's type, or is a text that the column does not hold."""
    name, kind = test.column, values.type
    if column.null_count == len(column):
        raise InputError(f"--where: no image has a {name}: the column is empty")
    if pa.types.is_list(column.type) and test.op in ORDERS:
        raise InputError(f"--where {test}: {name} holds lists: write 'value' in {name}")
    types, what = next((known for fits, known in KINDS.items() if fits(kind)), ((), ""))
    if not types:
        raise InputError(f"--where: {name} cannot be filtered; it holds {kind}")
    for value in test.values:
        if type(value) not in types:
            raise InputError(f"--where {test}: {name} holds {what}")
        if what == "numbers" and abs(value) > LARGEST_NUMBER:
            raise InputError(f"--where {name}: {str(value)[:30]} is too large a number")
        if isinstance(value, str) and test.op not in ORDERS:
            known = pc.unique(values)  # a value that the column does not hold is most often misspelt
            if not pc.is_in(pa.scalar(value), value_set=known).as_py():
                short = len(known) <= MAX_LISTED
                near = did_you_mean(value, known.drop_null().to_pylist()) if short else "see manifest.parquet"
                raise InputError(f"--where: no image has {name} '{value}'; {near}")
