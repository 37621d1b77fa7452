"""Checked access to the fields of a `config.json`. Knows no family and no meaning of a field."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from models.errors import ModelDirectoryError

_REQUIRED = object()


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of the file; errors name the file, the field, its value and what to do."""

    source: str
    raw: Mapping[str, Any]
    prefix: str = ""

    def part(self, name: str) -> Fields:
        """The object in the field `name`; absent and null are empty."""
        inner = self.raw.get(name) or {}
        if not isinstance(inner, Mapping):
            self.refuse(name, inner, "write an object")
        return Fields(self.source, inner, f"{self.prefix}{name}.")

    def integer(self, name: str, default: Any = _REQUIRED) -> int:
        """A whole number above 0; null counts as absent."""
        return int(self.checked(name, self._get(name, default), int))

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """A finite number above 0; null counts as absent."""
        value = self._get(name, default)
        if type(value) is int and abs(value) <= sys.float_info.max:
            value = float(value)
        return float(self.checked(name, value, float))

    def flag(self, name: str, default: bool) -> bool:
        """true or false; null counts as absent."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            self.refuse(name, value, "write true or false")
        return value

    def expect(self, name: str, *served: Any) -> None:
        """Refuses a field that is present, not null and none of `served`."""
        value = self.raw.get(name)
        if value is not None and value not in served:
            self.refuse(name, value, f"serve a model with {' or '.join(map(repr, served))}")

    def checked(self, name: str, value: Any, kind: type[int] | type[float]) -> Any:
        """`value` if it is a finite `kind` above 0."""
        if type(value) is not kind or not 0 < value < math.inf:
            self.refuse(name, value, f"write a finite {kind.__name__} above 0")
        return value

    def refuse(self, name: str, value: Any, what_to_do: str) -> NoReturn:
        """Raises ModelDirectoryError."""
        raise ModelDirectoryError(
            f"{self.source}: {self.prefix}{name} is {value!r}, which is not served; {what_to_do}"
        )

    def _get(self, name: str, default: Any) -> Any:
        value = self.raw.get(name)
        if value is None:
            value = default
        if value is _REQUIRED:
            raise ModelDirectoryError(
                f"{self.source}: {self.prefix}{name} is missing; export the model again"
            )
        return value
