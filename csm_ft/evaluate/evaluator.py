"""Collects the rows of an evaluation, and writes evaluation.json and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from csm_ft.console import console, shorten
from csm_ft.data import audio
from csm_ft.data.split import Store
from csm_ft.data.tags import count_tags
from csm_ft.evaluate import recordings
from csm_ft.evaluate.emotions import add_expression
from csm_ft.evaluate.judge import EMOTION, Judges, References, SpokenClip, judge
from csm_ft.evaluate.results import EvaluatedRow, Evaluation, Kind, make_row, write_results
from csm_ft.evaluate.verdicts import verdicts
from csm_ft.families.encoder import Encoder
from csm_ft.report.evaluation import write_page

_TITLES: Mapping[Kind, str] = {"codec": "after the codec", "recordings": "real recordings"}
_DEAF = 0.5  # word error rate on real recordings from which a recogniser is no judge
_LOST = 0.15  # what a codec may add to it


@dataclass
class Evaluator:
    """The folder of an evaluation, its judges, and the rows so far."""

    folder: Path  # the draft that is written
    judges: Judges
    store: Store | None
    encoder: Encoder | None
    references: References = field(default_factory=References)
    rows: list[EvaluatedRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)

    def tell_judges(self) -> None:
        """Print which judges are there, and what they cannot judge."""
        for line in (*self.judges.versions().values(), *self.judges.missing()):
            console.print(line, markup=False)
        for line in filter(None, (self._foreign_languages(), self._unknown_emotions())):
            self.notes.append(line)
            console.print(f"warning: {line}", style="yellow", markup=False)

    def refer_to(self, seed: int) -> None:
        """Choose the reference clips from the training split; a clip is none for itself."""
        if self.store is not None and self.encoder is not None:
            chosen = recordings.choose_references(self.store, seed)
            self.references = recordings.make_references(
                self.store, self.encoder, self.judges, chosen
            )

    def add(self, name: str, kind: Kind, clips: Sequence[SpokenClip], **more: object) -> None:
        """Judge clips and add them as a row."""
        if not clips and not more.get("on_data"):
            return
        console.print(f"judging {len(clips)} clips of {name}", markup=False)
        self.rows.append(make_row(name, kind, judge(clips, self.judges, self.references), **more))

    def add_real(self, places: Sequence[tuple[str, int]]) -> None:
        """Add the recordings of clips, after the codec and as they are, and write their sounds.

        `places` are splits and rows of the token file; without one nothing is added.
        """
        store, encoder = self.store, self.encoder
        if store is None or encoder is None:
            return
        coded: list[SpokenClip] = []
        original: list[SpokenClip] = []
        for name, split in store.splits.items():
            rows = [row for own, row in places if own == name]
            coded += recordings.through_codec(split, rows, encoder)
            rate = encoder.sample_rate_hz
            original += recordings.as_recorded(split, rows, rate, self.notes)
        found: Mapping[Kind, list[SpokenClip]] = {"codec": coded, "recordings": original}
        for kind, clips in found.items():
            placed = [replace(clip, id=f"{kind}/{clip.id}.wav", prompt=clip.id) for clip in clips]
            for clip in placed:
                path = self.folder / clip.id
                path.parent.mkdir(exist_ok=True)
                audio.save(path, clip.wave, clip.sample_rate_hz)
            self.add(_TITLES[kind], kind, placed)

    def finish(self, title: str) -> Evaluation:
        """Write evaluation.json and the page; return what stands in them."""
        self.tell_deafness()
        add_expression(self.rows, self.store, self.encoder, self.notes)
        store = self.store
        evaluation = Evaluation(
            title,
            self.rows,
            self.judges.versions(),
            self.judges.missing(),
            self.notes,
            verdicts(self.rows),
            self.judges.rules.name,
            options=self.options,
            data={"path": store.path.name, "content": store.info.content_fingerprint}
            if store
            else {},
        )
        write_results(evaluation, self.folder)
        write_page(evaluation, self.folder)
        return evaluation

    def _foreign_languages(self) -> str:
        """Return what to say of texts in languages that the recogniser does not know, or ""."""
        recogniser = self.judges.recogniser
        if isinstance(recogniser, str) or self.store is None or not recogniser.languages:
            return ""
        counts = count_tags(self.store.splits["val"]).get("language", {})
        foreign = [one for one in counts if one.lower()[:2] not in recogniser.languages]
        if not foreign:
            return ""
        return (
            f"clips in {shorten(foreign)}: the recogniser {recogniser.name} knows"
            f" {shorten(recogniser.languages, 4)} only, so their word errors mean nothing; name"
            " another with --asr, or --asr none"
        )

    def _unknown_emotions(self) -> str:
        """Return what to say of emotions that the classifier does not know, or ""."""
        classifier = self.judges.classifier
        if isinstance(classifier, str) or self.store is None:
            return ""
        emotions = count_tags(self.store.splits["train"]).get(EMOTION, {})
        unknown = [one for one in emotions if not classifier.knows(one)]
        if not unknown:
            return ""
        return (
            f"emotions {shorten(unknown)}: the classifier {classifier.name} knows"
            f" {shorten(classifier.emotions)} only, so it has no opinion on them"
        )

    def tell_deafness(self) -> None:
        """Note a recogniser that errs on most words of real recordings, or a codec that does."""
        found = {row.kind: row.summary["wer"].value for row in self.rows if "wer" in row.summary}
        coded = found.get("codec")
        real = found.get("recordings", coded)
        if real is None:
            return
        if real > _DEAF:
            self.notes.append(
                f"the recogniser itself errs on {real:.0%} of the words of real recordings: it does"
                " not know this language or these voices; name another with --asr"
            )
        elif coded is not None and coded - real > _LOST:
            self.notes.append(
                f"after the codec, {coded:.0%} of the words of real recordings are heard wrongly,"
                f" {real:.0%} before it: no model can do better through it; fit a codec on these"
                " voices, or pretokenise with another"
            )
