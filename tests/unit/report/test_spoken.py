"""index.html of a folder of recordings."""

import json
from pathlib import Path

import numpy as np
import pytest

from csm_ft.report import spoken
from csm_ft.report.spoken import build_index
from tests.helpers.sweep_folder import speech, write_answer, write_take

NASTY = "</script><script>alert(1)</script> \"quotes\" & 'more'"


def take(
    folder: Path,
    name: str,
    text: str,
    speaker: str = "anna",
    *,
    number: int = 1,
    context: list[dict[str, str]] | None = None,
) -> None:
    facts = {
        "text": text,
        "speaker": speaker,
        "take": number,
        "context": context or [],
        "is_complete": True,
    }
    write_take(folder / name, speech(1.0, 0.9, np.random.default_rng(number)), facts)


def test_takes_stand_side_by_side(tmp_path: Path) -> None:
    for number in (1, 2):
        take(tmp_path, f"001-hello-take{number}", "Hello.", number=number)
    take(tmp_path, "002-hello", "Hello.", "ben")
    take(
        tmp_path,
        "003-hello",
        "Hello.",
        context=[{"speaker": "ben", "text": NASTY}, {"speaker": "", "text": "Hm."}],
    )
    page = build_index(tmp_path).read_text()
    assert page.count('<article class="sentence">') == 3
    assert page.count("<audio") == page.count('src="data:audio/') == 4
    assert (
        page.index("001-hello-take1.wav")
        < page.index("001-hello-take2.wav")
        < page.index("002-hello.wav")
    )
    assert page.count("after 2 turns of context") == 1
    assert "<li>Hm.</li>" in page
    assert NASTY not in page
    assert "&lt;/script&gt;" in page


def test_long_context_shows_last_turns(tmp_path: Path) -> None:
    take(
        tmp_path,
        "001-hello",
        "Hello.",
        context=[{"speaker": "ben", "text": f"Turn {number}."} for number in range(1, 41)],
    )
    page = build_index(tmp_path).read_text()
    assert "after 40 turns of context" in page
    assert '<ol class="hint" start="29"><li>ben: Turn 29.</li>' in page
    assert page.count("<li>ben: Turn ") == 12


def test_empty_folder_is_named_so(tmp_path: Path) -> None:
    assert "No samples are in this folder." in build_index(tmp_path).read_text()


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    for name in ("001-a", "002-b", "003-c"):
        take(tmp_path, name, "Hello.")
    (tmp_path / "001-a.json").write_text("{")
    (tmp_path / "002-b.wav").unlink()
    (tmp_path / "003-c.wav").write_bytes(b"no sound")
    page = build_index(tmp_path).read_text()
    assert "001-a.json: not readable" in page
    assert "002-b.wav: the file is missing" in page
    assert "003-c.wav: not readable as audio" in page
    assert page.count("<audio") == 1


def test_large_pages_link_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("001-a #1", "002-b"):
        take(tmp_path, name, "Hello.")
    monkeypatch.setattr(spoken, "PAGE_BYTES", 1)
    page = build_index(tmp_path).read_text()
    assert 'src="001-a%20%231.wav"' in page
    assert "data:audio" not in page


def test_facts_of_takes_are_shown(tmp_path: Path) -> None:
    take(tmp_path, "001-a", "Hello.")
    facts = json.loads((tmp_path / "001-a.json").read_text())
    (tmp_path / "001-a.json").write_text(
        json.dumps({**facts, "is_complete": False, "silence_share": 0.75})
    )
    page = build_index(tmp_path).read_text()
    assert "cut at the limit" in page
    assert "75 % silence" in page
    assert "step" not in page.split("<main>")[1].split("</main>")[0]


def test_text_takes_need_no_player(tmp_path: Path) -> None:
    for number in (1, 2):
        facts = {"text": "Hello.", "take": number, "is_complete": True}
        write_answer(tmp_path / f"001-hello-take{number}", f"hallo {number}", facts)
    page = build_index(tmp_path).read_text()
    assert page.count("<ins>hallo</ins>") == 2
    assert page.count('<article class="sentence">') == 1
    assert "<audio" not in page
    assert "plays" not in page.split("<main>")[1].split("</main>")[0]


def test_words_and_measures_stand_beside_the_sound(tmp_path: Path) -> None:
    facts = {"captions": [[0.2, " Well"], [0.6, NASTY]], "prompt_sec": 0.5, "heard": "well well"}
    facts |= {"gap_sec": 0.315, "real_gap_sec": 0.4, "user_share": 0.5, "real_user_share": 0.25}
    facts |= {"words_per_sec": 2.25, "real_words_per_sec": 2, "seconds": 1.0}
    asked = {"text": "Hello.", "take": 1, "is_complete": True, "answer": "Well"}
    write_take(tmp_path / "001-a", speech(1.0, 0.9, np.random.default_rng(0)), asked | facts)
    page = build_index(tmp_path).read_text()
    assert '<span data-at="0.2" class="given"> Well</span><span data-at="0.6">&lt;/script' in page
    assert '<rect class="given" y="-1" width="36.00" height="2"/>' in page
    assert "<blockquote" not in page
    for fact in (
        "after a prompt of 0.5 s, shaded",
        "heard “well well”",
        "gap 0.32 s (real 0.40 s)",
        "user share 50 % (real 25 %)",
        "words/s 2.2 (real 2)",
    ):
        assert f"<li>{fact}</li>" in page
