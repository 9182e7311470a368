"""Prompts as people write them down: files, --context, and both as prompts of a model."""

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.data.rows import Row
from csm_ft.data.split import ArrayKind, Arrays
from csm_ft.errors import PromptError
from csm_ft.families.encoder import Encoder
from csm_ft.families.prompts import (
    AskedPrompt,
    ContextClip,
    check_clips,
    make_prompt,
    make_prompts,
    make_turn,
    parse_context,
    read_prompts,
)
from csm_ft.text_file import nfc

VISIBLE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)


class Counter(Encoder):
    """An encoder of 10 ms frames that counts its calls, and refuses the clips in `refused`."""

    arrays = MappingProxyType({"codes": ArrayKind("<u2", 2)})
    sample_rate_hz, frame_sec = 1000, 0.01
    audio_fingerprint = text_fingerprint = ""
    facts = assets = MappingProxyType({})

    def __init__(self, refused: str = "") -> None:
        self.calls, self.refused = 0, refused

    def encode_audio(self, waves: Any) -> list[Arrays | str]:
        self.calls += 1
        frames = [np.full((-(-len(wave) // 10), 2), 7, np.uint16) for wave in waves]
        return [self.refused or {"codes": codes} for codes in frames]

    def encode_text(self, row: Row) -> Arrays:
        raise NotImplementedError

    def decode(self, arrays: Arrays) -> None:
        return None


def no_brackets(speaker: str) -> str:
    return "has brackets; rename it" if set("[]") & set(speaker) else ""


def clip(path: Path, seconds: float = 1.0) -> Path:
    soundfile.write(path, np.linspace(-0.5, 0.5, round(2000 * seconds)), 2000)
    return path


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@given(
    VISIBLE.filter(lambda path: ":" not in path and not path.startswith("~")),
    VISIBLE,
    VISIBLE.filter(lambda word: not set(":[]") & set(word)) | st.just(""),
)
def test_context_is_cut_at_outer_colons(path: str, text: str, speaker: str) -> None:
    found = parse_context(f"{path}:{text}:{speaker}", no_brackets)
    assert (found.path, found.text, found.speaker) == (
        Path(path),
        nfc(text),
        nfc(speaker) or None,
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a.wav", "has 0 colons"),
        ("a.wav:hello", "has 1 colons"),
        (":hello:anna", "has no path"),
        ("a.wav: :anna", "has no transcript"),
        ("a.wav:She said: come here", "no speaker"),
        ("a.wav:Hello.:a]b", "brackets"),
        ("a.wav:Hell\udcff.:anna", "not UTF-8"),
    ],
)
def test_bad_context_shows_the_syntax(value: str, reason: str) -> None:
    with pytest.raises(PromptError, match=reason) as caught:
        parse_context(value, no_brackets)
    assert repr(value) in str(caught.value)
    assert any(
        way in str(caught.value)
        for way in ("clip.wav:transcript:speaker", "rename it", "write it again")
    )


def test_sentences_and_whole_prompts_are_read(tmp_path: Path) -> None:
    context = [
        {"path": "q.wav", "text": "Did you?", "speaker": 3, "start": 1, "end": 2.5},
        {"path": "/r.wav", "text": " Well. "},
    ]
    path = write(
        tmp_path,
        ["One.", {"text": "Yes.", "speaker": "anna", "name": "answer", "context": context}],
    )
    first, second = read_prompts(path)
    assert first == AskedPrompt(f"{path} entry 1", "One.")
    assert (second.text, second.speaker, second.name) == ("Yes.", "anna", "answer")
    assert second.context[0] == ContextClip(
        f"{path} entry 2 context 1", tmp_path / "q.wav", "Did you?", "3", 1.0, 2.5
    )
    assert (second.context[1].path, second.context[1].text, second.context[1].speaker) == (
        Path("/r.wav"),
        "Well.",
        None,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", ["not JSON"]),
        ([], ["has no prompts"]),
        ({"text": "Hi."}, ["list"]),
        (["Hi.", ""], ["entry 2", "text", '""']),
        ([{"speaker": "a"}], ["entry 1", "text", "missing"]),
        ([{"text": "Hi.", "speakr": "a"}], ["entry 1", "unknown key speakr", "is speaker meant?"]),
        ([{"text": "Hi.", "speaker": True}], ["entry 1", "speaker", "true"]),
        ([{"text": "Hi.", "tags": 3, "emotion": "sad"}], ["entry 1", "tags", "3"]),
        ([{"text": "Hi.", "context": [{"path": "a.wav"}]}], ["entry 1 context 1 text", "missing"]),
        (
            [{"text": "Hi.", "context": [{"path": "a.wav", "text": "x", "start": "soon"}]}],
            ["entry 1 context 1 start", '"soon"'],
        ),
        (
            '[{"text": "Hi.", "context": [{"path": "a.wav", "text": "x", "end": NaN}]}]',
            ["entry 1 context 1 end", "finite"],
        ),
        (
            [7, None],
            ["entry 1: 7 is neither a sentence nor an object; write", "entry 2: null is neither"],
        ),
        ({"text": "Hi."}, ['prompts.json: {"text": "Hi."} is no list; write [']),
        (["   "], ['entry 1 text: "   " is empty; fill it in']),
        ([{"text": "Hi.", "speaker": "a]b"}], ['entry 1 speaker: "a]b" has brackets', "rename it"]),
        (
            [{"text": "Hi.", "speaker": True}],
            ["entry 1 speaker: true is no string; put it in quotes"],
        ),
        ("[" * 100_000, ["not JSON"]),
    ],
)
def test_bad_file_names_entry_and_rule(tmp_path: Path, content: Any, words: list[str]) -> None:
    path = write(tmp_path, content)
    with pytest.raises(PromptError) as caught:
        read_prompts(path, no_brackets)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_speaker_may_be_a_number(tmp_path: Path) -> None:
    asked = read_prompts(
        write(
            tmp_path,
            [
                {"text": "Hi.", "speaker": 3},
                {"text": "Hi.", "speaker": 3.0},
                {"text": "Hi.", "speaker": " 3 "},
            ],
        )
    )
    assert [one.speaker for one in asked] == ["3", "3", "3"]


def test_further_keys_are_tags(tmp_path: Path) -> None:
    clip = {"path": "a.wav", "text": "x", "Emotion": "sad"}
    content = [{"text": "Hi.", "emotion": " angry ", "intensity": 2, "context": [clip]}, "Ho."]
    first, second = read_prompts(write(tmp_path, content))
    assert first.tags == {"emotion": "angry", "intensity": "2"}
    assert first.context[0].tags == {"emotion": "sad"}
    assert second.tags == {}


def test_tags_make_another_prompt() -> None:
    plain, angry = make_prompt("Hi.", "0"), make_prompt("Hi.", "0", tags={"emotion": "angry"})
    assert plain.id == make_prompt("Hi.", "0", tags={}).id != angry.id


def test_all_mistakes_are_listed(tmp_path: Path) -> None:
    with pytest.raises(PromptError) as caught:
        read_prompts(write(tmp_path, ["", {"speaker": "a"}]))
    assert [
        line.split(":")[0].removeprefix(f"{tmp_path}/prompts.json ")
        for line in str(caught.value).splitlines()
    ] == ["entry 1 text", "entry 2 text"]


@pytest.mark.parametrize("name", ["none.json", "."])
def test_missing_file_shows_the_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(PromptError, match="JSON list"):
        read_prompts(tmp_path / name)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "path", "speaker", "context", "name", "start", "x"]),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON)
def test_any_json_is_prompts_or_error(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "p.json"
    path.write_text(json.dumps(value))
    try:
        prompts = read_prompts(path)
    except PromptError as error:
        assert str(path) in str(error)  # noqa: PT017 - not every JSON is wrong
    else:
        assert len(prompts) == len(value)


def test_context_spans_are_encoded_once(tmp_path: Path) -> None:
    path, encoder = clip(tmp_path / "a.wav", 2.0), Counter()
    whole = ContextClip("w", path, "Whole.")
    part = ContextClip("p", path, "Part.", "ben", 0.5, 1.0)
    first, second = make_prompts(
        [AskedPrompt("1", "A.", context=(whole, part)), AskedPrompt("2", "B.", "cora", (part,))],
        encoder,
        speaker="anna",
        names_speakers=True,
    )
    assert encoder.calls == 2
    assert [(len(t.arrays["codes"]), t.text, t.speaker) for t in first.context] == [
        (200, "Whole.", "anna"),
        (50, "Part.", "ben"),
    ]
    assert (first.speaker, second.speaker) == ("anna", "cora")
    assert [turn.facts() for turn in first.context] == [
        {"path": str(path), "text": "Whole.", "speaker": "anna", "seconds": 2.0},
        {"path": str(path), "text": "Part.", "speaker": "ben", "seconds": 0.5},
    ]


def test_speakers_are_left_out_where_unknown(tmp_path: Path) -> None:
    asked = [
        AskedPrompt("1", "A.", "ben", (ContextClip("c", clip(tmp_path / "a.wav"), "Hm.", "ben"),))
    ]
    (one,) = make_prompts(asked, Counter(), speaker="anna", names_speakers=False)
    assert (one.speaker, one.context[0].speaker) == ("", "")


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ([0.0], "its level is -120 dBFS"),
        ([1e-4], "nothing can be heard in it"),
        ([0.5, -0.5], "its channels cancel each other: give a file of one of them"),
        ([0.5], ""),
        ([0.5, 0.5], ""),
    ],
)
def test_silent_context_is_told(
    tmp_path: Path, channels: list[float], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tone = np.sin(np.arange(2000) / 5)
    soundfile.write(tmp_path / "a.wav", np.stack([c * tone for c in channels], axis=1), 2000)
    asked = AskedPrompt("1", "A.", context=(ContextClip("entry 1", tmp_path / "a.wav", "Hm."),))
    make_prompts([asked], Counter(), speaker="anna", names_speakers=True)
    told = " ".join(capsys.readouterr().out.split())
    assert words in told
    assert bool(told) == bool(words)


def test_repeated_prompts_are_there_once() -> None:
    asked = [AskedPrompt("1", "A."), AskedPrompt("2", "B."), AskedPrompt("3", "A.", "anna")]
    prompts = make_prompts(asked, Counter(), speaker="anna", names_speakers=True)
    assert [one.text for one in prompts] == ["A.", "B."]


def test_prompt_id_covers_all_that_is_asked(tmp_path: Path) -> None:
    def turns(*contexts: ContextClip) -> str:
        asked = [AskedPrompt("", "A.", context=contexts)]
        (one,) = make_prompts(asked, Counter(), speaker="anna", names_speakers=True)
        return one.id

    long, short = clip(tmp_path / "long.wav", 2), clip(tmp_path / "short.wav", 1)
    one, other = ContextClip("", long, "One."), ContextClip("", short, "Two.")
    ids = [
        turns(),
        turns(one),
        turns(other),
        turns(one, other),
        turns(other, one),
        turns(ContextClip("", short, "One.")),
        turns(ContextClip("", long, "One.", "ben")),
    ]
    assert len(set(ids)) == len(ids)
    assert turns(one, other) == turns(one, other)


def test_prompt_ids_of_former_runs_stay() -> None:
    assert make_prompt("Hello.", "999").id == "499da7934636"
    codes = {"codes": np.arange(8, dtype=np.uint16).reshape(4, 2)}
    turn = make_turn("Well?", "ben", codes, 0.08, "a.wav")
    assert make_prompt("Yes.", "anna", [turn]).id == "80c57407b2ee"


def test_refused_clip_names_the_prompt(tmp_path: Path) -> None:
    context = (ContextClip("p entry 1 context 1", clip(tmp_path / "a.wav"), "Hm."),)
    with pytest.raises(PromptError, match=r"p entry 1 context 1: .*a\.wav: too quiet"):
        make_prompts(
            [AskedPrompt("p", "A.", context=context)],
            Counter(refused="too quiet"),
            speaker="0",
            names_speakers=True,
        )


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (None, 9.0, "past the file's end"),
        (0.5, 0.25, "is not after"),
        (5.0, None, "not before the file's end"),
    ],
)
def test_span_outside_clip_names_the_prompt(
    tmp_path: Path, start: float | None, end: float | None, reason: str
) -> None:
    asked = AskedPrompt(
        "p",
        "A.",
        context=(
            ContextClip(
                "p.json entry 3 context 1", clip(tmp_path / "a.wav"), "Hm.", None, start, end
            ),
        ),
    )
    with pytest.raises(PromptError, match=r"p\.json entry 3 context 1: .*a\.wav: .*" + reason):
        make_prompts([asked], Counter(), speaker="0", names_speakers=True)
    with pytest.raises(
        PromptError, match=r"p\.json entry 3 context 1: .*a\.wav: .*" + reason
    ) as caught:
        check_clips([asked])  # before a model is loaded
    assert "row" not in str(caught.value).removeprefix(str(tmp_path))


def test_missing_clip_is_found_early(tmp_path: Path) -> None:
    with pytest.raises(
        PromptError,
        match=(
            r"--context 'x': .*none\.wav: no such file; correct the clip's path or span, or leave the"
            r" clip out; a path with a colon goes into --prompts"
        ),
    ):
        check_clips(
            [
                AskedPrompt(
                    "--text",
                    "A.",
                    context=(ContextClip("--context 'x'", tmp_path / "none.wav", "Hm."),),
                )
            ]
        )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_prompts_are_read_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes('["Zoe\u0308!",\r\n {"text": "a", "speaker": "Zoe\u0308"}]'.encode(encoding))
    first, second = read_prompts(path)
    assert (first.text, second.speaker) == ("Zo\u00eb!", "Zo\u00eb")
