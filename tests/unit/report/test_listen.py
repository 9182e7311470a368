"""Which samples stand side by side, and what is said of them."""

import html
import json
import re
from pathlib import Path

import pytest

from csm_ft.report import data, listen, page
from csm_ft.report.page import build_report
from csm_ft.report.run_page import build_run_page
from csm_ft.runs.folder import SweepFolder
from tests.helpers.sweep_folder import make_sweep, write_answer, write_summary
from tests.unit.report.reading import NASTY, Sweep, build, figures, prose


def test_large_pages_link_least_important_sounds(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = sweep
    linked_only = len(build(out)) - sum(
        len(s) for s in re.findall(r'src="(data:audio[^"]*)"', build(out))
    )
    monkeypatch.setattr(page, "PAGE_BYTES", linked_only + 260_000)
    text = build(out)
    assert len(text.encode()) <= page.PAGE_BYTES
    links = re.findall(r'src="((?:trials|baseline)[^"]*)"', text)
    assert links
    assert all((out / link).is_file() for link in links)
    assert f"{len(links)} recordings are not in this file" in prose(text)
    before_menu = re.sub(r"<template.*?</template>", "", text, flags=re.DOTALL)
    assert not re.findall(r'src="(?:trials|baseline)', before_menu)


def test_samples_are_nearest_best_validation(sweep: Sweep) -> None:
    out, summary = sweep
    best = summary["trials"][summary["best"]]
    best["best_examples"] = 700
    write_summary(out, summary)
    notes: list[str] = []
    read = data.read_summary(SweepFolder(out))
    runs = {t.number: data.read_run(out / t.dir, notes) for t in read.trials}
    rows = listen.arrange(out, read, data.read_run(out / "baseline", notes), runs).rows
    assert [row.text for row in rows] == [
        "The birch canoe slid on the smooth planks.",
        "Glue the sheet to the dark blue background.",
    ]
    assert [list(row.players) for row in rows] == [["reference", "base", "default", "best"]] * 2
    assert rows[0].players["best"].take.step == 90
    assert rows[0].players["best"].href == f"{best['dir']}/samples/5e1f0a/step_000090.wav"
    assert notes == []


@pytest.mark.parametrize(
    ("examples", "step"), [(None, 180), (10, 90), (700, 90), (1100, 180), (9000, 180)]
)
def test_untrained_sample_represents_no_trial(examples: float | None, step: int) -> None:
    takes = [data.Take(Path("a.wav"), "x", step=s, examples=8.0 * s) for s in (0, 90, 180)]
    run = data.Run([], [], {"p": takes, "q": takes[:1]}, [])
    chosen = run.at("p", examples)
    assert chosen is not None
    assert chosen.step == step
    assert run.at("q", examples) == takes[0]
    assert run.at("unknown", examples) is None


def test_odd_folder_names_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep(tmp_path, num_trials=1, sentences={"50% #1": ("x y z", "")})
    monkeypatch.setattr(page, "PAGE_BYTES", 0)
    assert 'src="trials/0000/samples/50%25%20%231/step_000180.wav"' in build(tmp_path)


def test_prompts_keep_their_order(tmp_path: Path) -> None:
    sentences = {"ff": ("zebra", ""), "aa": ("middle", ""), "cc": ("apple", "")}
    make_sweep(tmp_path, num_trials=1, sentences=sentences)
    assert re.findall(r"<q>(.*?)</q>", build(tmp_path)) == ["zebra", "middle", "apple"]


def test_unprompted_real_clips_have_own_row(sweep: Sweep) -> None:
    out, _ = sweep
    for path in (out / "baseline/samples/reference").glob("*.json"):
        path.write_text(
            json.dumps({"text": "Another sentence.", "clip_id": path.stem, "seconds": 1.0})
        )
    assert (
        "Real clips through the codec as good as any model can sound here “Another sentence.”"
        in prose(build(out))
    )


def test_context_stands_at_prompt(sweep: Sweep) -> None:
    out, _ = sweep
    for facts in out.glob("**/samples/5e1f0a/*.json"):
        turns = [
            {"speaker": "ben", "text": "<b>Well?</b>", "path": "a.wav"},
            {"speaker": "", "text": "Hm."},
        ]
        facts.write_text(
            json.dumps({**json.loads(facts.read_text()), "context": turns, "turns_left_out": 1})
        )
    text = build_report(out).read_text()
    assert text.count("after 2 turns of context") == 1
    assert (
        '<ol class="hint" start="1"><li>ben: &lt;b&gt;Well?&lt;/b&gt;</li><li>Hm.</li></ol>' in text
    )
    assert "without the oldest 1 of 2 turns: too long for the model" in text


# Words that only some families have a use for.
AUDIO_WORDS = (
    r"\b(frames?|codes?|codebooks?|codec|eos|voices?|speech|spoken|recordings?|sounds?|audio"
    r"|listen|heard|plays?)\b"
)


def test_text_samples_stand_side_by_side(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, text_only=True)
    text = build(tmp_path)
    words = prose(text)
    best = summary["best"]
    column = f"Best = default (trial {best})"
    assert f"{column} glue the sheet to the dark blue background. as heard at 90" in words
    assert text.count('<blockquote class="answer">') > 10
    assert "<audio" not in text
    assert "stopped by itself" in words
    assert "Each model is shown nearest its best validation." in words


def test_transcripts_with_most_errors_come_first(tmp_path: Path) -> None:
    best = make_sweep(tmp_path, text_only=True)["best"]
    folders = sorted((tmp_path / f"trials/{best:04}/samples").iterdir())
    wrong = folders[-1].name
    texts = {}
    for folder in folders:
        for path in folder.glob("*.json"):
            facts = json.loads(path.read_text())
            texts[folder.name] = facts["text"]
            answer = "noise" if folder.name == wrong else facts["text"].upper()
            path.write_text(json.dumps({**facts, "answer": answer}))
    text = build(tmp_path)
    headings = re.findall(r"<h3><q>(.*?)</q>", text)
    assert headings[0] == html.escape(texts[wrong], quote=True)
    assert "<ins>noise</ins>" in text
    assert "The prompts with most errors come first" in prose(text)
    page = build_run_page(tmp_path / f"trials/{best:04}").read_text()
    assert re.findall(r"<h3><q>(.*?)</q>", page)[0] == html.escape(texts[wrong], quote=True)
    assert page.count("<ins>noise</ins>") == 1


def test_page_of_text_has_no_audio_words(tmp_path: Path) -> None:
    make_sweep(tmp_path, text_only=True)
    text = build(tmp_path)
    words = prose(text).replace("as heard at", "")
    assert re.findall(AUDIO_WORDS, words, re.IGNORECASE) == []
    labels = " ".join(re.findall(r'aria-label="([^"]*)"', text))
    assert re.findall(AUDIO_WORDS, labels, re.IGNORECASE) == []
    for figure in figures(text).values():
        titles = [figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
        assert re.findall(AUDIO_WORDS, " ".join(titles)) == []
    assert '<h2 id="listen-h">Samples</h2>' in text
    assert '<a href="#listen">Samples</a>' in text


def test_sound_with_text_shows_both(sweep: Sweep) -> None:
    out, _ = sweep
    for path in out.glob("trials/*/samples/5e1f0a/*.json"):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({**facts, "answer": NASTY}))
    text = build(out)
    figure = re.search(r'<figure class="player best">.*?</figure>', text, re.DOTALL)
    assert figure
    assert "<audio" in figure[0]
    assert f'<blockquote class="answer">{html.escape(NASTY, quote=False)[:9]}' in figure[0]
    assert "<script>alert" not in text


def test_prompt_without_text(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=1, samples=False)
    stem = tmp_path / "trials/0000/samples/aa/step_000180"
    write_answer(stem, "", {"text": "", "speaker": None, "step": 180, "is_complete": False})
    words = prose(build(tmp_path))
    assert "(a prompt without text)" in words
    assert "(empty)" in words
    assert "cut at the limit" in words
