"""Who speaks: clusters of voice embeddings over all recordings together.

Stretches of 1.6 s or more (one window of Resemblyzer's encoder) are clustered by Ward's method on
unit vectors; shorter ones get the speaker whose mean embedding is nearest, and very short ones the
speaker of the stretch that is nearest in time. How many voices there are is harder to tell than
which is which: a distance that parts two speakers of one call lies within one speaker of two
microphones. So a number is asked for, and an estimate is given with its silhouette (Rousseeuw
1987: 1 = clusters far apart, 0 = they touch).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from csm_ft.errors import ConfigError
from csm_ft.evaluate.recognise import RECOGNISER_HZ
from csm_ft.evaluate.speaker import Embedder, Embedding
from csm_ft.segment.hear import Block, Recording, load_block
from csm_ft.segment.speech import Stretch

MIN_VOICE_SEC = 0.5  # from where an embedding says anything
MIN_CLUSTERED_SEC = 1.6
_MAX_CLUSTERED = 4000  # stretches, as the distances of all pairs are kept (64 MB)
_MAX_AUTO = 10  # voices that are looked for
_MIN_AUTO_STRETCHES = 8
# Tried with seven voices, alone and in groups of two to seven: one voice has up to 0.31 (and 0.50
# where its recordings differ in sound), two and more have 0.37 to 0.75.
_ONE_VOICE_BELOW, _SURE_FROM = 0.35, 0.55

Voices = Mapping[float, Embedding]  # by the start of a stretch in its recording


class Labelled(NamedTuple):
    """Recordings whose stretches have speakers, and how sure that is."""

    recordings: list[list[Stretch]]
    note: str


def embed_block(
    recording: Recording, block: Block, embedder: Embedder
) -> Iterator[tuple[float, Embedding]]:
    """Yield the embeddings of the stretches of a block that are long enough, by their start."""
    chosen = [one for one in block.stretches if one.end_sec - one.start_sec >= MIN_VOICE_SEC]
    if not chosen:
        return
    wave = load_block(recording, block.start_sec, block.end_sec)
    for stretch in chosen:
        first = round((stretch.start_sec - block.start_sec) * RECOGNISER_HZ)
        stop = round((stretch.end_sec - block.start_sec) * RECOGNISER_HZ)
        yield stretch.start_sec, embedder.embed(wave[first:stop])


def label_speakers(
    recordings: Sequence[Sequence[Stretch]],
    voices: Sequence[Voices],
    num_speakers: int,
    prefix: str = "speaker-",
) -> Labelled:
    """Return the stretches of all recordings with their speakers; 0 speakers = estimate how many.

    They are numbered by how much they speak. ConfigError where there is too little speech to tell
    so many apart.
    """
    known = [
        (stretch.end_sec - stretch.start_sec, own[stretch.start_sec])
        for stretches, own in zip(recordings, voices, strict=True)
        for stretch in stretches
        if stretch.start_sec in own
    ]
    if num_speakers == 1:
        named = [[replace(one, speaker=f"{prefix}1") for one in own] for own in recordings]
        return Labelled(named, "")
    points = _points(known, num_speakers)
    clusters, note = _cluster(points, num_speakers) if num_speakers else _estimate(points)
    centres = _centres(points, clusters)
    nearest = np.argmax(np.stack([embedding for _, embedding in known]) @ centres.T, axis=1)
    spoken_sec = np.bincount(nearest, [sec for sec, _ in known], minlength=len(centres))
    centres = centres[np.argsort(-spoken_sec)]
    named = [
        list(_with_speakers(stretches, _nearest(own, centres, prefix)))
        for stretches, own in zip(recordings, voices, strict=True)
    ]
    return Labelled(named, note)


def _points(known: Sequence[tuple[float, Embedding]], num_speakers: int) -> NDArray[np.float32]:
    """Return the embeddings that are clustered, [stretches, D]; ConfigError if they are too few."""
    long = [embedding for length_sec, embedding in known if length_sec >= MIN_CLUSTERED_SEC]
    least = num_speakers or _MIN_AUTO_STRETCHES
    if len(long) < least:
        raise ConfigError(
            f"--speakers {num_speakers or 'auto'}: {len(long)} of the stretches of speech are"
            f" {MIN_CLUSTERED_SEC:g} s or longer, and {least} are needed to tell voices apart;"
            " give fewer, or --speakers off"
        )
    return np.stack(long[:: -(-len(long) // _MAX_CLUSTERED)])


def _nearest(voices: Voices, centres: NDArray[np.float32], prefix: str) -> Mapping[float, str]:
    """Return the speaker of each voice."""
    return {
        start_sec: f"{prefix}{int(np.argmax(centres @ embedding)) + 1}"
        for start_sec, embedding in voices.items()
    }


def _with_speakers(
    stretches: Sequence[Stretch], speakers: Mapping[float, str]
) -> Iterator[Stretch]:
    """Yield stretches with their speakers; those without a voice have that of the nearest one."""
    known = [stretch for stretch in stretches if stretch.start_sec in speakers]
    for stretch in stretches:
        near = stretch
        if stretch.start_sec not in speakers and known:
            near = min(known, key=lambda one: _apart_sec(one, stretch))
        yield replace(stretch, speaker=speakers.get(near.start_sec, ""))


def _apart_sec(one: Stretch, other: Stretch) -> float:
    return max(one.start_sec - other.end_sec, other.start_sec - one.end_sec)


def _estimate(points: NDArray[np.float32]) -> tuple[NDArray[np.int64], str]:
    """Return the clusters of the best silhouette, and what it says."""
    counts = range(2, min(_MAX_AUTO, len(points) - 2) + 1)
    found = {count: _cluster(points, count)[0] for count in counts}
    scores = {count: _silhouette(points, clusters) for count, clusters in found.items()}
    ranked = sorted(scores, key=lambda count: -scores[count])
    best, shown = ranked[0], ", ".join(f"{count}: {scores[count]:.2f}" for count in ranked[:3])
    if scores[best] < _ONE_VOICE_BELOW:
        note = f"1 speaker: voices are no clusters (silhouettes of {shown})"
        return np.zeros(len(points), np.int64), f"{note}; if there are more, give --speakers N"
    if scores[best] < _SURE_FROM:
        note = f"{best} speakers, not sure (silhouettes of {shown}; 0.55 would be)"
        return found[best], f"{note}; listen, and give --speakers N if it is another number"
    return found[best], f"{best} speakers, rather sure (silhouettes of {shown})"


def _cluster(points: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], str]:
    from sklearn.cluster import AgglomerativeClustering

    clusters = AgglomerativeClustering(count, linkage="ward").fit_predict(points)
    score = _silhouette(points, clusters)
    note = f"{count} speakers, silhouette {score:.2f}"
    if score < _ONE_VOICE_BELOW:
        note += "; that is low: the voices are alike, or fewer; listen before you train"
    return clusters, note


def _silhouette(points: NDArray[np.float32], clusters: NDArray[np.int64]) -> float:
    from sklearn.metrics import silhouette_score

    if len(points) <= clusters.max() + 1:  # each a cluster of its own
        return 0.0
    return float(silhouette_score(points, clusters, metric="cosine"))


def _centres(points: NDArray[np.float32], clusters: NDArray[np.int64]) -> NDArray[np.float32]:
    means = np.stack([points[clusters == one].mean(axis=0) for one in range(clusters.max() + 1)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)
