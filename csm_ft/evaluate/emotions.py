"""Adds expression to the rows of an evaluation, from the reference clips of a token file."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from csm_ft.data.split import Store
from csm_ft.evaluate.expression import compare_expression
from csm_ft.evaluate.judge import EMOTION, JUDGE_HZ, JudgedClip, SpokenClip, heard_wave
from csm_ft.evaluate.prosody import measure_prosody
from csm_ft.evaluate.recordings import through_codec
from csm_ft.evaluate.results import EvaluatedRow
from csm_ft.families.encoder import Encoder

CLIPS_PER_EMOTION = 24


def add_expression(
    rows: list[EvaluatedRow], store: Store | None, encoder: Encoder | None, notes: list[str]
) -> None:
    """Compare the emotions of the rows of models with up to 24 real clips of each emotion.

    Rows whose clips have no emotion are left as they are.
    """
    asked = any(EMOTION in one.clip.tags for row in rows for one in row.judged)
    if store is None or encoder is None or not asked:
        return
    real = reference_prosody(store, encoder)
    for place, row in enumerate(rows):
        if row.kind in ("model", "base") and row.judged:
            found = compare_expression(real, row.judged)
            rows[place] = replace(row, expression=found)
            if isinstance(found, str):
                notes.append(f"{row.name}: {found}")


def reference_prosody(store: Store, encoder: Encoder, seed: int = 0) -> Sequence[JudgedClip]:
    """Measure the prosody of up to 24 clips of each emotion, after the codec, chosen by seed."""
    places: dict[str, list[tuple[str, int]]] = {}
    for name, split in store.splits.items():
        for row in range(len(split)):
            emotion = split.tags(row).get(EMOTION)
            if emotion:
                places.setdefault(emotion, []).append((name, row))
    random = np.random.default_rng(seed)
    chosen: list[tuple[str, int]] = []
    for found in places.values():
        order = random.permutation(len(found))[:CLIPS_PER_EMOTION].tolist()
        chosen += [found[place] for place in order]
    judged = []
    for name, split in store.splits.items():
        rows = [row for own, row in chosen if own == name]
        judged += [_judged(clip) for clip in through_codec(split, rows, encoder)]
    return judged


def _judged(clip: SpokenClip) -> JudgedClip:
    """Measure a clip; one that cannot be measured has no values."""
    try:
        values = measure_prosody(heard_wave(clip), JUDGE_HZ, clip.text)
    except Exception as error:  # as in judge.py
        return JudgedClip(clip, {}, {}, failed={"prosody": f"{type(error).__name__}: {error}"})
    return JudgedClip(clip, values, {})
