"""Options that are computed from others, as `2 * lora_rank`: arithmetic, and nothing else.

Python's parser reads them; only the kinds of nodes below are computed, so no expression can reach
an object, call a function of its choice, or take long.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from csm_ft.errors import ConfigError

_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, power: float(base) ** float(power),  # whole numbers could grow huge
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"min": min, "max": max, "round": round}
_KNOWN = "numbers, options, + - * / // % **, min, max and round are"


class Expression:
    """An expression that has been read."""

    def __init__(self, text: str) -> None:
        """Raises ConfigError where it is none, or has more than arithmetic."""
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ConfigError(f"{text!r} is no expression, as 2 * lora_rank") from None
        self.names = tuple(dict.fromkeys(_names(self._tree, text)))

    def value(self, options: Mapping[str, Any]) -> int | float:
        """Compute it; ConfigError where the values of options cannot be computed with."""
        try:
            found = _compute(self._tree, options)
        except (ArithmeticError, TypeError, ValueError) as error:
            values = ", ".join(f"{name} = {options[name]!r}" for name in self.names)
            raise ConfigError(f"{self.text!r} with {values}: {error}") from None
        if isinstance(found, complex):  # a root of a negative number
            raise ConfigError(f"{self.text!r} is the root of a negative number")
        return found


def _names(node: ast.expr, text: str) -> list[str]:
    """Return the options that a node names; ConfigError for what is not arithmetic."""
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return []
        case ast.Name(id=name):
            return [name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _names(operand, text)
        case ast.BinOp(left=left, right=right) if type(node.op) in _OPERATORS:
            return _names(left, text) + _names(right, text)
        case ast.Call(func=ast.Name(id=name), args=[*given], keywords=[]) if name in _FUNCTIONS:
            return [found for one in given for found in _names(one, text)]
    raise ConfigError(f"{text!r}: {ast.unparse(node)} cannot be computed; {_KNOWN}")


def _compute(node: ast.expr, options: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            value = options[name]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is not a number")
            return value
        case ast.UnaryOp(op=op, operand=operand):
            value = _compute(operand, options)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_compute(left, options), _compute(right, options))
        case ast.Call(func=ast.Name(id=name), args=given):
            return _FUNCTIONS[name](*(_compute(one, options) for one in given))
    raise AssertionError("checked when it was read")
