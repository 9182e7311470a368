"""Which of some candidate sentences was spoken? By pocketsphinx, with a grammar of sentences."""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import pocketsphinx
import soxr
from numpy.typing import NDArray

RECOGNISER_HZ = 16000


def recognise(wave: NDArray[np.float32], sample_rate_hz: int, sentences: Sequence[str]) -> str:
    """Return the candidate that was most likely spoken, "" if the audio fits none of them.

    Raises ValueError for a candidate with a word that the recogniser's dictionary lacks: it could
    never be recognised.
    """
    decoder = _decoder()
    spoken_as = {_words(sentence): sentence for sentence in sentences}
    for words in spoken_as:
        for word in words.split():
            if decoder.lookup_word(word) is None:
                raise ValueError(
                    f"{spoken_as[words]!r}: the word {word!r} is not in the recogniser's"
                    " dictionary; choose another sentence"
                )
    decoder.add_jsgf_string(
        "candidates", f"#JSGF V1.0; grammar g; public <s> = {' | '.join(spoken_as)};"
    )
    decoder.activate_search("candidates")
    if sample_rate_hz != RECOGNISER_HZ:
        wave = soxr.resample(wave, sample_rate_hz, RECOGNISER_HZ)
    decoder.start_utt()
    decoder.process_raw(_pcm(wave), full_utt=True)
    decoder.end_utt()
    heard = decoder.hyp()
    return spoken_as.get(heard.hypstr.strip(), "") if heard is not None else ""


@cache
def _decoder() -> pocketsphinx.Decoder:
    return pocketsphinx.Decoder(lm=None, loglevel="FATAL", samprate=float(RECOGNISER_HZ))


def _words(sentence: str) -> str:
    return " ".join(re.findall(r"[a-z']+", sentence.lower()))


def _pcm(wave: NDArray[np.float32]) -> bytes:
    silence = np.zeros(RECOGNISER_HZ // 10, dtype=np.float32)
    padded = np.concatenate([silence, np.asarray(wave, dtype=np.float32), silence])
    return (np.clip(padded, -1, 1) * 32767).astype("<i2").tobytes()
