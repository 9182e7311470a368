"""What to speak, and after what.

Files of prompts, `--context clip.wav:transcript:speaker`, and both as prompts of a model.

A file is a JSON list; each entry is a sentence, or an object:

    [
      "A sentence.",
      {"text": "Yes, I did.", "speaker": "anna", "name": "answer",
       "context": [{"path": "question.wav", "text": "Did you see it?", "speaker": "ben", "start":
       1.5, "end": 3.0}]}
    ]

Paths are relative to the file. A turn or a prompt without `speaker` takes the speaker that is asked
for elsewhere.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from csm_ft.codecs.base import Codec, Codes
from csm_ft.config import ConfigError
from csm_ft.data import audio
from csm_ft.families.base import Prompt, Turn
from csm_ft.families.csm.config import MAX_POSITIONS

EXAMPLE = (
    '[{"text": "Hello.", "speaker": "0", "context": [{"path": "clip.wav", "text": "What the clip'
    ' says."}]}]'
)


class PromptError(ConfigError):
    """A prompt, or a clip of its context, that cannot be used.

    The message names where it stands, the rule and the way out.
    """


@dataclass(frozen=True)
class ContextClip:
    """A recording of a turn that was said before."""

    where: str  # for messages
    path: Path
    text: str
    speaker: str | None = None  # None = as the prompt's
    start_sec: float | None = None
    end_sec: float | None = None


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt as a person wrote it down."""

    where: str  # for messages
    text: str
    speaker: str | None = None  # None = as asked for elsewhere
    context: tuple[ContextClip, ...] = ()  # oldest first
    name: str = ""  # for the file


@dataclass(frozen=True)
class VoicedPrompt:
    """A prompt for a model, and the recordings that its context was made of."""

    prompt: Prompt
    clips: Sequence[ContextClip] = ()
    name: str = ""
    facts: list[dict[str, Any]] = field(
        default_factory=list
    )  # of the clips, for JSON beside the wav


def _word(value: Any) -> Any:
    """Take 3 and 3.0 for "3", as metadata does; true is no speaker."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _nameable(speaker: str) -> str:
    if any(letter in "[]" or not letter.isprintable() for letter in speaker):
        raise ValueError(
            "has brackets or control characters, but stands as [speaker] before the text; rename it"
        )
    return speaker


def _sentence(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Speaker = Annotated[_Text, BeforeValidator(_word), AfterValidator(_nameable)]


class _Clip(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    path: _Text
    text: _Text
    speaker: _Speaker | None = None
    start: float | None = None
    end: float | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    text: _Text
    speaker: _Speaker | None = None
    context: list[_Clip] = []
    name: str = ""


_RULES = {
    "list_type": f"is no list; write {EXAMPLE}",
    "string_too_short": "is empty; fill it in",
    "string_type": "is no string; put it in quotes",
    "string_unicode": "has characters that are no text; write it again as UTF-8",
    "float_type": "is no number of seconds; write it like 12.5",
    "finite_number": "is not finite; write seconds like 12.5",
    "model_type": f"is neither a sentence nor an object; write {EXAMPLE}",
}  # pydantic's own words for them name our classes, and no way out

_FILE = TypeAdapter(list[Annotated[_Entry, BeforeValidator(_sentence)]])


def read_prompts(path: Path) -> list[AskedPrompt]:
    """Read a file of prompts. PromptError names file, entry (from 1), field, value and rule.

    Sound files are not opened here.
    """
    try:
        entries = _FILE.validate_python(json.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        raise PromptError("\n".join(_message(path, e) for e in error.errors())) from None
    except (OSError, ValueError, RecursionError) as error:  # recursion: thousands of brackets
        reason = error.strerror if isinstance(error, OSError) else f"not JSON ({error})"
        raise PromptError(f"{path}: {reason}; prompts are a JSON list: {EXAMPLE}") from error
    if not entries:
        raise PromptError(f"{path}: has no prompts; write {EXAMPLE}")
    return [_asked(path, number, entry) for number, entry in enumerate(entries, start=1)]


def parse_context(value: str) -> ContextClip:
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
    return ContextClip(
        where,
        Path(path.strip()),
        check_text(where, text),
        check_speaker(where, speaker) if speaker else None,
    )


def check_text(where: str, text: str) -> str:
    """Return the text of a command line, stripped. PromptError when it is empty, or not UTF-8."""
    if not text.strip():
        raise PromptError(f"{where} is empty; give it a sentence, or leave it out")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PromptError(
            f"{where} {text[:40]!r} is not UTF-8; write it again in a UTF-8 terminal, or into a"
            " file for --prompts"
        )
    return text.strip()


def check_speaker(where: str, speaker: str) -> str:
    """Return the name of a speaker, stripped.

    PromptError when it is empty, or cannot stand as [speaker] before a text.
    """
    try:
        if not speaker.strip():
            raise ValueError("is empty; name a speaker, or leave it out")
        return _nameable(speaker.strip())
    except ValueError as error:
        raise PromptError(f"{where}: speaker {speaker!r} {error}") from None


def check_clips(asked: Sequence[AskedPrompt]) -> None:
    """Open the context clips, so that a wrong path or span is told before a model is loaded.

    PromptError names the clip.
    """
    for one in asked:
        for clip in one.context:
            with _naming(clip):
                audio.probe(clip.path, start_sec=clip.start_sec, end_sec=clip.end_sec)


def voiced(
    asked: Sequence[AskedPrompt], codec: Codec, *, speaker: str, names_speakers: bool
) -> list[VoicedPrompt]:
    """Encode the context clips (each span once) and name the speakers.

    Without `names_speakers` (the model's template has none) all are "".

    A prompt that is asked for twice is there once. PromptError names the clip that cannot be used.
    """
    heard: dict[tuple[Path, float | None, float | None], Codes] = {}
    prompts: dict[str, VoicedPrompt] = {}
    for one in asked:
        own = one.speaker if one.speaker is not None else speaker
        turns, facts = [], []
        for clip in one.context:
            span = (clip.path, clip.start_sec, clip.end_sec)
            if span not in heard:
                heard[span] = _encode(clip, codec)
            who = (clip.speaker or own) if names_speakers else ""
            turns.append(Turn(clip.text, who, heard[span]))
            seconds = len(heard[span]) * codec.frame_samples / codec.sample_rate_hz
            facts.append(
                {"path": str(clip.path), "text": clip.text, "speaker": who, "seconds": seconds}
            )
        prompt = make_prompt(one.text, own if names_speakers else "", turns)
        prompts.setdefault(prompt.id, VoicedPrompt(prompt, one.context, one.name, facts))
    return list(prompts.values())


def check_lengths(
    prompts: Sequence[VoicedPrompt], tokenizer: Any, codec: Codec, max_sec: float, *, option: str
) -> int:
    """Return max_sec (of `option`) in frames.

    PromptError for a text that leaves no room for them within the model's positions.
    """
    frame_sec = codec.frame_samples / codec.sample_rate_hz
    max_frames = math.ceil(max_sec / frame_sec)
    if max_frames >= MAX_POSITIONS:
        raise PromptError(
            f"--{option} {max_sec:g} is more than the {int(MAX_POSITIONS * frame_sec)} s that the"
            " model holds; give a smaller one"
        )
    for one in prompts:
        num_tokens = len(tokenizer.encode(one.prompt.text, one.prompt.speaker or None))
        room = MAX_POSITIONS - num_tokens
        if room < max_frames:
            hint = (
                f"--{option} {int(room * frame_sec)}" if room * frame_sec >= 1 else "a shorter text"
            )
            raise PromptError(
                f"{one.prompt.text[:40]!r} takes {num_tokens} of the model's {MAX_POSITIONS}"
                f" positions, and --{option} {max_sec:g} {max_frames} more, which is too much; give"
                f" {hint}, or cut the text into several prompts"
            )
    return max_frames


def make_prompt(text: str, speaker: str, context: Sequence[Turn] = ()) -> Prompt:
    """Return a prompt under the hash of all that it asks for.

    Without context that is the hash of speaker and text alone.
    """
    digest = hashlib.blake2b(f"{speaker}|{text}".encode(), digest_size=6)
    for turn in context:
        digest.update(json.dumps([turn.speaker, turn.text, turn.codes.shape]).encode())
        digest.update(turn.codes.tobytes())
    return Prompt(digest.hexdigest(), text, speaker, tuple(context))


def _encode(clip: ContextClip, codec: Codec) -> Codes:
    with _naming(clip):
        wave = audio.load(
            clip.path,
            sample_rate_hz=codec.sample_rate_hz,
            start_sec=clip.start_sec,
            end_sec=clip.end_sec,
        )
    return codec.encode([wave])[0]


@contextmanager
def _naming(clip: ContextClip) -> Iterator[None]:
    try:
        yield
    except audio.AudioError as error:
        reason = str(error).replace("drop the row or ", "").replace("drop the row", "leave it out")
        way = "check its path" + (
            "; one with a colon goes into --prompts" if clip.where.startswith("--context") else ""
        )
        raise PromptError(
            f"{clip.where}: {reason.replace('paths are relative to the metadata file', way)}"
        ) from error


def _asked(path: Path, number: int, entry: _Entry) -> AskedPrompt:
    where = f"{path} entry {number}"
    clips = [
        ContextClip(
            f"{where} context {turn}",
            path.parent / clip.path,
            clip.text,
            clip.speaker,
            clip.start,
            clip.end,
        )
        for turn, clip in enumerate(entry.context, start=1)
    ]
    return AskedPrompt(where, entry.text, entry.speaker, tuple(clips), entry.name)


def _message(path: Path, error: Any) -> str:
    """Say `prompts.json entry 2 context 1 speaker: true is not valid: ...`, counted from 1."""
    place = " ".join(
        str(part) if isinstance(part, str) else f"{'entry' if not i else ''} {part + 1}".strip()
        for i, part in enumerate(error["loc"])
    )
    if error["type"] == "missing":
        return f"{path} {place}: is missing; an entry is a sentence, or as in {EXAMPLE}"
    if error["type"] == "extra_forbidden":
        return (
            f"{path} {place}: unknown key; an entry has text, speaker, context, name, and a clip"
            " path, text, speaker, start, end"
        )
    shown = json.dumps(error["input"], ensure_ascii=False)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    rule = _RULES.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    return f"{' '.join(filter(None, (str(path), place)))}: {shown} {rule}"
