"""From sounds and what they should be to metrics: clips -> judged clips -> summary.

The one path for `python -m csm_ft.evaluate`, the codec check and training.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import soxr

from csm_ft.console import console
from csm_ft.data.audio import Wave
from csm_ft.data.pitch import NOT_INSTALLED, pyworld
from csm_ft.data.text import PLAIN, Normaliser, open_spoken_normaliser
from csm_ft.errors import UserError, first_line
from csm_ft.evaluate.classify import NO_CLASSIFIER, Classifier, open_classifier
from csm_ft.evaluate.prosody import measure_prosody, pyworld_version
from csm_ft.evaluate.quality import Dnsmos, open_dnsmos
from csm_ft.evaluate.recognise import ExpectingRecogniser, Recogniser, open_recogniser
from csm_ft.evaluate.sound import measure_sound
from csm_ft.evaluate.speaker import Embedder, Embedding, Voices, open_embedder, score_voices
from csm_ft.evaluate.summary import Estimate, Share, estimate, names_of
from csm_ft.evaluate.words import compare_words

EMOTION = "emotion"  # the tag that expression is compared by
JUDGE_HZ = 16000  # what recogniser, embedder and DNSMOS hear


@dataclass(frozen=True)
class SpokenClip:
    """A sound, and what it should be."""

    id: str  # for people: the name of its file
    wave: Wave  # [N]
    sample_rate_hz: int
    text: str
    speaker: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""  # what takes of one prompt have in common; "" = its id
    is_complete: bool | None = None  # the model stopped by itself; None = no model made it


def recording_key(speaker: str, text: str, tags: Mapping[str, str]) -> Hashable:
    """Return what recordings must have in common for their lengths to be compared."""
    return speaker, text, tags.get(EMOTION, "")


@dataclass(frozen=True)
class JudgedClip:
    """The metrics of one clip; one whose judge failed is missing, with the reason in `failed`."""

    clip: SpokenClip
    values: Mapping[str, float]
    shares: Mapping[str, Share]  # what it adds to each metric of a summary
    heard: str | None = None
    failed: Mapping[str, str] = field(default_factory=dict)  # judge -> reason


@dataclass(frozen=True)
class References:
    """What clips are compared with: recordings of the same people."""

    voices: Voices = field(default_factory=dict)
    seconds: Mapping[Hashable, float] = field(default_factory=dict)  # recording_key -> length
    sec_per_char: Mapping[str, float] = field(default_factory=dict)

    def expected_sec(self, clip: SpokenClip) -> float | None:
        """Return how long the speaker takes for the text: in the recording, or by their rate."""
        known = self.seconds.get(recording_key(clip.speaker, clip.text, clip.tags))
        rate = self.sec_per_char.get(clip.speaker)
        return known if known is not None or rate is None else rate * len(clip.text)


@dataclass(frozen=True)
class Judges:
    """The judges that are there; a str in the place of one says why it is not."""

    recogniser: Recogniser | str
    embedder: Embedder | str
    dnsmos: Dnsmos | str
    classifier: Classifier | str = NO_CLASSIFIER
    rules: Normaliser = PLAIN  # that words are compared by

    def versions(self) -> dict[str, str]:
        """Return the names, with versions, of the judges that are there."""
        judges = {
            "words": self.recogniser,
            "voice": self.embedder,
            "quality": self.dnsmos,
            "emotion": self.classifier,
        }
        found = {what: one.name for what, one in judges.items() if not isinstance(one, str)}
        return found | ({"pitch": f"pyworld {pyworld_version()}"} if pyworld() else {})

    def missing(self) -> list[str]:
        """Return a sentence for each judge that is not there."""
        reasons = [x for x in (self.recogniser, self.embedder, self.dnsmos) if isinstance(x, str)]
        if pyworld() is None:
            reasons.append(f"no pitch: {NOT_INSTALLED}")
        return reasons


def open_judges(
    asr: str, embedder: str, classifier: str = "none", *, language: str = "", device: str = "cpu"
) -> Judges:
    """Open the judges that are asked for. ConfigError for a named one that cannot be opened."""
    recogniser, rules = open_hearing(asr, language, device)
    return Judges(
        recogniser,
        open_embedder(embedder, device),
        open_dnsmos(),
        open_classifier(classifier, device),
        rules,
    )


def open_hearing(asr: str, language: str, device: str) -> tuple[Recogniser | str, Normaliser]:
    """Open a recogniser, as open_recogniser does, and the rules that words are compared by."""
    recogniser = open_recogniser(asr, language, device)
    known = () if isinstance(recogniser, str) else recogniser.languages
    return recogniser, open_spoken_normaliser(language or (known[0] if len(known) == 1 else ""))


def judge(clips: Iterable[SpokenClip], judges: Judges, references: References) -> list[JudgedClip]:
    """Judge all clips, each by itself; a recogniser by grammar chooses among their texts."""
    clips = list(clips)
    if isinstance(judges.recogniser, ExpectingRecogniser):
        judges.recogniser.expect(clip.text for clip in clips)
    return [_judge_clip(clip, judges, references) for clip in clips]


def summarise(judged: Sequence[JudgedClip], seed: int = 0) -> dict[str, Estimate]:
    """Return every metric over the clips that have it, with its interval over prompts."""
    summary: dict[str, Estimate] = {}
    for name in names_of(one.shares for one in judged):
        found = estimate([one.shares[name] for one in judged if name in one.shares], seed)
        if found is not None:
            summary[name] = found
    return summary


def embed_voices(clips: Iterable[SpokenClip], judges: Judges) -> dict[str, dict[str, Embedding]]:
    """Return the embeddings of reference clips, by speaker and clip; {} without an embedder.

    Clips that it fails on are left out, which is told.
    """
    voices: dict[str, dict[str, Embedding]] = {}
    embedder, failed = judges.embedder, list[str]()
    if isinstance(embedder, str):
        return voices
    for clip in (clip for clip in clips if len(clip.wave)):
        try:
            voices.setdefault(clip.speaker, {})[clip.id] = embedder.embed(heard_wave(clip))
        except UserError:
            raise
        except Exception as error:  # other people's code, on sounds of any kind
            failed.append(f"{clip.id}: {type(error).__name__}: {first_line(error)}")
    if failed:
        console.print(
            f"warning: {embedder.name} failed on {len(failed)} reference clips, which are left out"
            f" ({failed[0]})",
            style="yellow",
            markup=False,
        )
    return voices


def heard_wave(clip: SpokenClip) -> Wave:
    """Return the wave at the rate that judges hear."""
    if clip.sample_rate_hz == JUDGE_HZ:
        return clip.wave
    return soxr.resample(clip.wave, clip.sample_rate_hz, JUDGE_HZ, quality="HQ")


class _Sheet:
    """The metrics of one clip as they come in."""

    def __init__(self, clip: SpokenClip) -> None:
        self.prompt = clip.prompt or clip.id
        self.values: dict[str, float] = {}
        self.shares: dict[str, Share] = {}
        self.failed: dict[str, str] = {}

    def add(self, values: Mapping[str, float]) -> None:
        self.values |= values
        self.shares |= {name: Share(self.prompt, value) for name, value in values.items()}

    def ask(self, judge: str, question: Callable[[], Mapping[str, float]]) -> None:
        """Take what a judge says; its failure on one clip is noted, a mistake of the user's not."""
        try:
            self.add(question())
        except UserError:
            raise
        except Exception as error:  # other people's code, on sounds of any kind
            self.failed[judge] = f"{type(error).__name__}: {first_line(error)}"


def _judge_clip(clip: SpokenClip, judges: Judges, references: References) -> JudgedClip:
    sheet, wave = _Sheet(clip), heard_wave(clip)
    sheet.ask("sound", lambda: measure_sound(clip.wave, clip.sample_rate_hz))
    sheet.add(_time(clip, references))
    heard = _words(clip, wave, judges, sheet)
    if len(wave):
        embedder, dnsmos, classifier = judges.embedder, judges.dnsmos, judges.classifier
        emotion = clip.tags.get(EMOTION, "")
        if not isinstance(embedder, str):
            voices = references.voices
            sheet.ask("voice", lambda: _score_voice(clip, embedder.embed(wave), voices))
        if not isinstance(dnsmos, str):
            sheet.ask("quality", lambda: dnsmos.score(wave))
        if emotion and not isinstance(classifier, str):
            sheet.ask("emotion", lambda: classifier.score(wave, emotion))
        sheet.ask("prosody", lambda: measure_prosody(wave, JUDGE_HZ, clip.text))
    return JudgedClip(clip, sheet.values, sheet.shares, heard, sheet.failed)


def _score_voice(clip: SpokenClip, embedding: Embedding, voices: Voices) -> dict[str, float]:
    """Compare a clip with the reference clips, without itself."""
    others = {
        speaker: [found for name, found in clips.items() if name not in (clip.id, clip.prompt)]
        for speaker, clips in voices.items()
    }
    return score_voices(clip.speaker, embedding, others)


def _time(clip: SpokenClip, references: References) -> dict[str, float]:
    values: dict[str, float] = {}
    expected = references.expected_sec(clip)
    if expected:
        values["duration_ratio"] = len(clip.wave) / clip.sample_rate_hz / expected
    if clip.is_complete is not None:
        values["stopped"] = float(clip.is_complete)
    return values


def _words(clip: SpokenClip, wave: Wave, judges: Judges, sheet: _Sheet) -> str | None:
    """Add the word metrics; silence of no length is heard as nothing, which is no failure."""
    recogniser, heard = judges.recogniser, None
    if isinstance(recogniser, str) or not clip.text.strip():
        return None

    def question() -> Mapping[str, float]:
        nonlocal heard
        heard = recogniser.hear(wave) if len(wave) else ""
        facts = compare_words(clip.text, heard, judges.rules)
        for name, counts in (("wer", facts.words), ("cer", facts.characters)):
            errors = counts.substitutions + counts.deletions + counts.insertions
            rates[name] = Share(sheet.prompt, errors, counts.num_reference)
        return facts.values()

    rates: dict[str, Share] = {}
    sheet.ask("words", question)
    sheet.shares |= rates  # over a corpus: errors of all clips / words of all clips
    return heard
