"""The page of an evaluation says which model is worse in what, and shows every number."""

from pathlib import Path

import numpy as np
import pytest

from csm_ft.data import audio
from csm_ft.evaluate.expression import Expression, Moved
from csm_ft.evaluate.judge import JudgedClip
from csm_ft.evaluate.results import EvaluatedRow, Evaluation, Kind, make_row, write_results
from csm_ft.evaluate.summary import Share
from csm_ft.evaluate.verdicts import verdicts
from csm_ft.report.evaluation import write_page
from tests.helpers.judging import RATE_HZ, clip, tone

EXPRESSION = Expression(
    {"sad": Moved(3, {"f0_mean_st": -1.0}), "neutral": Moved(3, {"f0_mean_st": 0.0})},
    {"sad": Moved(2, {}), "neutral": Moved(2, {"f0_mean_st": 0.0})},
    {},
    {"sad": {"sad": 1, "neutral": 1}},
    0.75,
    {"sad": False},
    ["f0_mean_st"],
)


def row_of(name: str, kind: Kind, wer: float, similarity: float, folder: Path) -> EvaluatedRow:
    judged = []
    for place in range(8):
        id_ = f"{kind}-{name}-{place}.wav"
        audio.save(folder / id_, tone(0.2), RATE_HZ)
        values = {"wer": wer + 0.01 * place, "similarity": similarity - 0.01 * place}
        shares = {metric: Share(str(place), value) for metric, value in values.items()}
        sound = clip(id_, f"Text <{place}> & more", 0.2, prompt=str(place))
        judged.append(JudgedClip(sound, values, shares, heard="<b>this</b>"))
    return make_row(name, kind, judged)


@pytest.fixture
def rows(tmp_path: Path) -> list[EvaluatedRow]:
    return [
        row_of("mumbler", "model", 0.6, 0.9, tmp_path),
        row_of("stranger", "base", 0.1, 0.5, tmp_path),
        row_of("after the codec", "codec", 0.1, 0.9, tmp_path),
    ]


def test_verdict_tells_words_from_voice(rows: list[EvaluatedRow]) -> None:
    ceiling, base = verdicts(rows)
    assert ceiling.startswith(
        "mumbler, compared with real recordings after the codec: worse in words"
    )
    assert "no clear difference in voice" in ceiling
    assert "better in voice" in base
    assert "worse in words" in base


def test_verdict_without_a_model_is_on_the_codec(tmp_path: Path) -> None:
    pair = [
        row_of("after the codec", "codec", 0.5, 0.9, tmp_path),
        row_of("real recordings", "recordings", 0.1, 0.9, tmp_path),
    ]
    assert verdicts(pair)[0].startswith("after the codec, compared with the recordings before it")
    assert verdicts([]) == []


def test_page_has_every_recording_and_escapes_texts(
    rows: list[EvaluatedRow], tmp_path: Path
) -> None:
    found = Evaluation("run <1>", rows, {"words": "fake"}, ["no DNSMOS"], ["a note"])
    page = write_page(found, tmp_path).read_text()
    assert page.count("<audio") == 24
    assert page.count('src="data:audio') == 24
    assert "<b>this</b>" not in page
    assert "run &lt;1&gt;" in page
    assert "no DNSMOS" in page


def test_expression_is_on_the_page(rows: list[EvaluatedRow], tmp_path: Path) -> None:
    from dataclasses import replace

    found = Evaluation("run", [replace(rows[0], expression=EXPRESSION)], {}, [], [])
    write_results(found, tmp_path)
    page = write_page(found, tmp_path).read_text()
    assert "75 % of the measures move" in page
    assert "nearest sad" in page


def test_failed_judge_is_counted(tmp_path: Path) -> None:
    broken = JudgedClip(clip("x.wav", "text", 0.2), {}, {}, failed={"words": "ValueError: no"})
    audio.save(tmp_path / "x.wav", np.zeros(100, np.float32), RATE_HZ)
    found = Evaluation("run", [EvaluatedRow("run", "model", [broken], {})], {}, [], [])
    assert found.all_notes() == [
        "run: words failed on 1 of 1 clips, whose numbers are missing (x.wav: ValueError: no)"
    ]
    assert "ValueError: no" in write_page(found, tmp_path).read_text()
