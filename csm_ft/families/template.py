"""Text templates: how the columns of a row become the text that a model reads.

`[{speaker}]<{emotion}>?{text}` names columns of the metadata in braces. A part is a name with the
brackets directly around it; `?` behind a part makes it optional: rows without that column leave it
out, with the blanks behind it. Braces that are no name are doubled, as in Python's str.format.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from csm_ft.errors import ConfigError

DEFAULT_TEMPLATE = "[{speaker}]{text}"
_BRACKETS = {"<": ">", "(": ")", "[": "]", "{": "}", "|": "|"}
_NAME = re.compile(r"[^\W\d][\w ]*")
_OWN = ("speaker", "text")  # not tags
_PLACE = "\0"  # of the text: no speaker and no tag holds it


@dataclass(frozen=True)
class _Part:
    """A name, the brackets around it, and what follows up to the next part."""

    name: str
    opening: str
    closing: str
    is_optional: bool
    literal: str


class TextTemplate:
    """A template that was checked; ConfigError names what is wrong with it.

    `columns` are the columns of the metadata that it names, without text and speaker; `needed`
    those of them that every row must have.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        literals, names = _parse(pattern)
        wrong = [name for name in names if not _NAME.fullmatch(name)]
        if wrong:
            raise _error(pattern, f"{wrong[0]!r} is no name of a column")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise _error(pattern, f"{twice[0]} stands in it twice")
        if "text" not in names:
            raise _error(pattern, "it has no {text}")
        self._start, self._parts = _parts(literals, names)
        self.columns = tuple(name for name in names if name not in _OWN)
        self.names_speakers = "speaker" in names
        optional = {part.name for part in self._parts if part.is_optional}
        self.needed = tuple(name for name in self.columns if name not in optional)

    def problem(self, tags: Mapping[str, str]) -> str:
        """Return why a row with these tags cannot be written, with the way out, or ""."""
        for name in self.needed:
            if name not in tags:
                return (
                    f"{name} is missing or no plain word, but --text_template names it; fill it in,"
                    f" or make it optional with ? behind its brackets"
                )
        return self.unwritable(tags)

    def unwritable(self, tags: Mapping[str, str]) -> str:
        """Return which tag has a bracket that stands around it in the template, or ""."""
        for part in self._parts if tags else ():
            value = tags.get(part.name, "")
            bad = {part.opening, part.closing} - {""} if part.name in self.columns else set[str]()
            if any(letter in value for letter in bad) or not value.isprintable():
                return (
                    f"{part.name} {value!r} has {part.opening}, {part.closing} or a control"
                    " character, and stands in such brackets in --text_template; rename it, or use"
                    " other brackets"
                )
        return ""

    def render(self, text: str, speaker: str, tags: Mapping[str, str]) -> str:
        """Return the text of a row; parts of columns that `tags` lacks are left out."""
        values = {**self.own(tags), "text": text}
        if speaker or not self._is_optional("speaker"):
            values["speaker"] = speaker
        rendered = self._start
        for part in self._parts:
            if part.name in values:
                rendered += part.opening + values[part.name] + part.closing + part.literal
            else:
                rendered += part.literal.lstrip()
        return rendered

    def around(self, speaker: str, tags: Mapping[str, str]) -> tuple[str, str]:
        """Return what stands before and behind the text of a row."""
        before, _, after = self.render(_PLACE, speaker, tags).partition(_PLACE)
        return before, after

    def own(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return those tags that the template names."""
        return {name: tags[name] for name in self.columns if name in tags}

    def _is_optional(self, name: str) -> bool:
        return any(part.is_optional for part in self._parts if part.name == name)


def _parse(pattern: str) -> tuple[list[str], list[str]]:
    """Return the names of a pattern, and the literals around them (one more)."""
    try:
        pieces = list(Formatter().parse(pattern))
    except ValueError as error:
        raise _error(pattern, str(error)) from None
    if any(spec or conversion for _, _, spec, conversion in pieces):
        raise _error(pattern, "names take neither : nor !")
    literals, names = [""], list[str]()
    for literal, name, *_ in pieces:
        literals[-1] += literal  # a doubled brace ends a piece that has no name
        if name is not None:
            names.append(name.strip().lower())
            literals.append("")
    return literals, names


def _parts(literals: list[str], names: list[str]) -> tuple[str, list[_Part]]:
    """Give each name its brackets; returns what stands before the first, and the parts."""
    literals = list(literals)
    found: list[tuple[str, str, str, bool]] = []
    for place, name in enumerate(names):
        before, after = literals[place], literals[place + 1]
        opening, closing = before[-1:], ""
        if opening in _BRACKETS and after.startswith(_BRACKETS[opening]):
            closing, after = after[:1], after[1:]
            literals[place] = before[:-1]
        else:
            opening = ""
        is_optional = name != "text" and after.startswith("?")
        literals[place + 1] = after[1:] if is_optional else after
        found.append((name, opening, closing, is_optional))
    parts = [_Part(*part, literal) for part, literal in zip(found, literals[1:], strict=True)]
    return literals[0], parts


def _error(pattern: str, problem: str) -> ConfigError:
    return ConfigError(
        f"--text_template {pattern!r}: {problem}; write it like {DEFAULT_TEMPLATE!r} or"
        " '[{speaker}]<{emotion}>?{text}'"
    )
