"""Reads a recipe's YAML, and refuses what YAML itself would let pass. Knows no recipe's fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from compress.stages.stage import RecipeError

UNREADABLE = (  # what a file that is no recipe makes its readers raise
    *(OSError, yaml.YAMLError, RecursionError, KeyError, AttributeError, TypeError),
    *(ValueError, OverflowError),  # of a date or an integer that Python has none of
)


class _Loader(yaml.SafeLoader):
    """Where a key is given twice, SafeLoader takes the last value and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Once merged by <<, a key may well stand there twice; here they are as written.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        for again in _repeated(node):
            raise RecipeError(
                f"{again.value!r} is given twice, again in line {again.start_mark.line + 1}; "
                "keep one"
            )
        return node


def read_yaml(path: Path) -> Any:
    """Raises RecipeError for a key given twice, and one of UNREADABLE for what is no YAML."""
    text = path.read_text(encoding="utf-8")
    try:
        return yaml.load(text, _Loader)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _repeated(node: yaml.MappingNode) -> Iterator[yaml.ScalarNode]:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if (key.tag, key.value) in seen:
            yield key
        seen.add((key.tag, key.value))
