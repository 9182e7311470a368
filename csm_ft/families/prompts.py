"""Prompts as people write them down: files of prompts, `--context clip.wav:transcript:speaker`.

A file is a JSON list; each entry is a sentence, or an object:

    [
      "A sentence.",
      {"text": "Yes, I did.", "speaker": "anna", "emotion": "happy", "name": "answer",
       "context": [{"path": "question.wav", "text": "Did you see it?", "speaker": "ben", "start":
       1.5, "end": 3.0}]}
    ]

Paths are relative to the file. A turn or a prompt without `speaker` takes the speaker that is asked
for elsewhere; further keys are its tags, as the columns of the metadata that the model was trained
with.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from csm_ft.config.base import expand_home
from csm_ft.config.notes import NoteLimits
from csm_ft.console import console
from csm_ft.data import audio
from csm_ft.data.measures import SILENT_DBFS, Measures
from csm_ft.data.split import Arrays
from csm_ft.errors import AudioError, PromptError
from csm_ft.families.base import Prompt, Turn
from csm_ft.families.encoder import Encoder
from csm_ft.text_file import nfc, read_text

EXAMPLE = (
    '[{"text": "Hello.", "speaker": "0", "context": [{"path": "clip.wav", "text": "What the clip'
    ' says."}]}]'
)
_RESEMBLES = 0.8  # likeness of a key to a known one, from which it is a slip and no tag
# Returns what is wrong with the name of a speaker, and the way out, or "".
SpeakerRule = Callable[[str], str]


def any_speaker(speaker: str) -> str:
    """Allow every name: the rule of a family that has none."""
    return ""


@dataclass(frozen=True)
class ContextClip:
    """A recording of a turn that was said before."""

    where: str  # for messages
    path: Path
    text: str
    speaker: str | None = None  # None = as the prompt's
    start_sec: float | None = None
    end_sec: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt as a person wrote it down."""

    where: str  # for messages
    text: str
    speaker: str | None = None  # None = as asked for elsewhere
    context: tuple[ContextClip, ...] = ()  # oldest first
    name: str = ""  # for the file
    tags: Mapping[str, str] = field(default_factory=dict)


def read_prompts(path: Path, rule: SpeakerRule = any_speaker) -> list[AskedPrompt]:
    """Read a file of prompts. PromptError names file, entry (from 1), field, value and rule.

    Sound files are not opened here.
    """
    try:
        text = read_text(path, PromptError)
    except OSError as error:
        raise PromptError(
            f"{path}: {error.strerror}; prompts are a JSON list: {EXAMPLE}"
        ) from error
    try:
        entries = _FILE.validate_python(json.loads(text), context=rule)
    except ValidationError as error:
        raise PromptError("\n".join(_message(path, one) for one in error.errors())) from None
    except (ValueError, RecursionError) as error:  # recursion: thousands of brackets
        raise PromptError(
            f"{path}: not JSON ({error}); prompts are a JSON list: {EXAMPLE}"
        ) from error
    if not entries:
        raise PromptError(f"{path}: has no prompts; write {EXAMPLE}")
    return [_asked(path, number, entry) for number, entry in enumerate(entries, start=1)]


def parse_context(value: str, rule: SpeakerRule = any_speaker) -> ContextClip:
    """Read `path:transcript:speaker`, cut at the first and the last colon.

    The speaker may be empty. PromptError says how to write it.
    """
    where = f"--context {value!r}"
    way = (
        "write clip.wav:transcript:speaker, or clip.wav:transcript: for the prompt's speaker; a"
        " path with a colon goes into --prompts"
    )
    path, _, rest = value.partition(":")
    text, colon, speaker = (part.strip() for part in rest.rpartition(":"))
    if not colon:
        raise PromptError(f"{where} has {value.count(':')} colons, not two; {way}")
    if not path.strip() or not text:
        raise PromptError(f"{where} has no {'transcript' if path.strip() else 'path'}; {way}")
    if len(speaker.split()) > 1:
        raise PromptError(
            f"{where}: what follows the last colon, {speaker!r}, is no speaker (it has blanks);"
            f" {way}"
        )
    who = check_speaker(where, speaker, rule) if speaker else None
    return ContextClip(where, Path(expand_home(path.strip())), check_text(where, text), who)


def check_text(where: str, text: str) -> str:
    """Return the text of a command line, stripped. PromptError when it is empty, or not UTF-8."""
    if not text.strip():
        raise PromptError(f"{where} is empty; give it a sentence, or leave it out")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PromptError(
            f"{where} {text[:40]!r} is not UTF-8; write it again in a UTF-8 terminal, or into a"
            " file for --prompts"
        )
    return nfc(text.strip())


def check_speaker(where: str, speaker: str, rule: SpeakerRule = any_speaker) -> str:
    """Return the name of a speaker, stripped; PromptError when it is empty or against the rule."""
    reason = rule(speaker.strip())
    if not speaker.strip():
        reason = "is empty; name a speaker, or leave it out"
    if reason:
        raise PromptError(f"{where}: speaker {speaker!r} {reason}")
    return nfc(speaker.strip())


def check_clips(asked: Sequence[AskedPrompt]) -> None:
    """Open the context clips, to find a wrong path or span before a model is loaded.

    PromptError names the clip.
    """
    for clip in (clip for one in asked for clip in one.context):
        with _naming(clip):
            audio.probe(clip.path, start_sec=clip.start_sec, end_sec=clip.end_sec)


def make_prompts(
    asked: Sequence[AskedPrompt], encoder: Encoder, *, speaker: str, names_speakers: bool
) -> list[Prompt]:
    """Encode the context clips (each span once) and name the speakers.

    Without `names_speakers` (the model does not know any) all are "". A prompt that is asked for
    twice is there once. PromptError names the clip that cannot be used.
    """
    encoded: dict[tuple[Path, float | None, float | None], Arrays] = {}
    prompts: dict[str, Prompt] = {}
    for one in asked:
        own = one.speaker if one.speaker is not None else speaker
        turns = []
        for clip in one.context:
            span = (clip.path, clip.start_sec, clip.end_sec)
            if span not in encoded:
                encoded[span] = _encode(clip, encoder)
            who = (clip.speaker or own) if names_speakers else ""
            turn = make_turn(clip.text, who, encoded[span], encoder.frame_sec, clip.path)
            turns.append(replace(turn, tags=clip.tags))
        who = own if names_speakers else ""
        prompt = make_prompt(one.text, who, turns, name=one.name, tags=one.tags)
        prompts.setdefault(prompt.id, prompt)
    return list(prompts.values())


def make_turn(text: str, speaker: str, arrays: Arrays, frame_sec: float, path: Path | str) -> Turn:
    """Return a turn of a context; the rows of its first array take `frame_sec` each."""
    num_rows = len(next(iter(arrays.values())))
    return Turn(text, speaker, arrays, seconds=num_rows * frame_sec, path=str(path))


def make_prompt(
    text: str,
    speaker: str,
    context: Sequence[Turn] = (),
    *,
    name: str = "",
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Prompt:
    """Return a prompt under the hash of all that it asks for.

    Without context and tags that is the hash of speaker and text alone; a name changes nothing.
    """
    digest = hashlib.blake2b(f"{speaker}|{text}".encode(), digest_size=6)
    for turn in context:
        shapes = [array.shape for array in turn.arrays.values()]
        digest.update(json.dumps([turn.speaker, turn.text, *shapes]).encode())
        for array in turn.arrays.values():
            digest.update(array.tobytes())
        digest.update(_tags_key(turn.tags))
    digest.update(_tags_key(tags))
    return Prompt(digest.hexdigest(), text, speaker, tuple(context), name=name, tags=tags)


def _tags_key(tags: Mapping[str, str]) -> bytes:
    return json.dumps(dict(tags), sort_keys=True).encode() if tags else b""


def _encode(clip: ContextClip, encoder: Encoder) -> Arrays:
    with _naming(clip):
        wave, measures = audio.load_measured(
            clip.path,
            sample_rate_hz=encoder.sample_rate_hz,
            start_sec=clip.start_sec,
            end_sec=clip.end_sec,
            channel="both" if encoder.channels == "both" else "mix",
        )
    _tell_silence(clip, measures)
    (arrays,) = encoder.encode_audio([wave])
    if isinstance(arrays, str):
        raise PromptError(f"{clip.where}: {clip.path}: {arrays}")
    return arrays


def _tell_silence(clip: ContextClip, measures: Measures) -> None:
    """Say that nothing can be heard in a clip: the model would follow silence."""
    if measures.level_dbfs >= SILENT_DBFS:
        return
    cause = ""
    if measures.mix_loss_db > NoteLimits.mix_loss_db:
        cause = "; its channels cancel each other: give a file of one of them"
    console.print(
        f"{clip.where}: {clip.path}: nothing can be heard in it, its level is"
        f" {measures.level_dbfs:.0f} dBFS{cause}",
        style="yellow",
        markup=False,
    )


@contextmanager
def _naming(clip: ContextClip) -> Iterator[None]:
    try:
        yield
    except AudioError as error:
        way = "correct the clip's path or span, or leave the clip out"
        if clip.where.startswith("--context"):
            way += "; a path with a colon goes into --prompts"
        raise PromptError(f"{clip.where}: {error}; {way}") from error


# Files


def _word(value: Any) -> Any:
    """Take 3 and 3.0 for "3", as metadata does; true is no speaker."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _allowed(speaker: str, info: ValidationInfo) -> str:
    rule: Any = info.context
    reason = rule(speaker)
    if reason:
        raise ValueError(reason)  # how pydantic is given a reason
    return speaker


def _sentence(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


_Path = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Text = Annotated[_Path, AfterValidator(nfc)]
_Word = Annotated[_Text, BeforeValidator(_word)]
_Speaker = Annotated[_Word, AfterValidator(_allowed)]


class _Tagged(BaseModel):
    """What further keys are: tags."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    tags: dict[str, _Word] = {}

    @model_validator(mode="before")
    @classmethod
    def _further_keys(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("tags", {}), dict):
            return value
        own = {name: one for name, one in value.items() if name in cls.model_fields}
        further = {str(n).strip().lower(): one for n, one in value.items() if n not in own}
        for name in further:
            near = difflib.get_close_matches(name, cls.model_fields, 1, _RESEMBLES)
            if near:
                raise ValueError(f"has the unknown key {name}; is {near[0]} meant?")
        return {**own, "tags": {**own.get("tags", {}), **further}} if further else own


class _Clip(_Tagged):
    path: _Path
    text: _Text
    speaker: _Speaker | None = None
    start: float | None = None
    end: float | None = None


class _Entry(_Tagged):
    text: _Text
    speaker: _Speaker | None = None
    context: list[_Clip] = []
    name: str = ""


_FILE = TypeAdapter(list[Annotated[_Entry, BeforeValidator(_sentence)]])
_RULES = {  # pydantic's own words for them name our classes, and no way out
    "list_type": f"is no list; write {EXAMPLE}",
    "string_too_short": "is empty; fill it in",
    "string_type": "is no string; put it in quotes",
    "string_unicode": "has characters that are no text; write it again as UTF-8",
    "float_type": "is no number of seconds; write it like 12.5",
    "finite_number": "is not finite; write seconds like 12.5",
    "model_type": f"is neither a sentence nor an object; write {EXAMPLE}",
}


def _asked(path: Path, number: int, entry: _Entry) -> AskedPrompt:
    where = f"{path} entry {number}"
    clips = [
        ContextClip(
            f"{where} context {turn}",
            path.parent / expand_home(clip.path),
            clip.text,
            clip.speaker,
            clip.start,
            clip.end,
            clip.tags,
        )
        for turn, clip in enumerate(entry.context, start=1)
    ]
    return AskedPrompt(where, entry.text, entry.speaker, tuple(clips), entry.name, tags=entry.tags)


def _message(path: Path, error: Any) -> str:
    """Say `prompts.json entry 2 context 1 speaker: true is no string; ...`, counted from 1."""
    words = [str(path)]
    for depth, part in enumerate(error["loc"]):
        if isinstance(part, str):
            words.append(part)
        else:
            words.append(f"{part + 1}" if depth else f"entry {part + 1}")
    place = " ".join(words)
    if error["type"] == "missing":
        return f"{place}: is missing; an entry is a sentence, or as in {EXAMPLE}"
    shown = json.dumps(error["input"], ensure_ascii=False)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    if error["type"] == "value_error":
        return f"{place}: {shown} {error['ctx']['error']}"
    return f"{place}: {shown} {_RULES.get(error['type'], error['msg'])}"
