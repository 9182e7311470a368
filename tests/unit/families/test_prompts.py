import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from csm_ft import codecs
from csm_ft.codecs.base import Codes, Wave
from csm_ft.families.csm.encoder import open_tokenizer
from csm_ft.families.prompts import (
    AskedPrompt,
    ContextClip,
    PromptError,
    VoicedPrompt,
    check_clips,
    check_lengths,
    make_prompt,
    parse_context,
    read_prompts,
    voiced,
)

VISIBLE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)


class Counter:
    """A codec of 10 samples a frame whose codes are what it is given.

    And which counts its calls.
    """

    name, source, sample_rate_hz, frame_samples, num_codebooks, vocab_size, fingerprint = (
        "count",
        "",
        1000,
        10,
        2,
        100,
        "",
    )

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, waves: Any) -> list[Codes]:
        self.calls += 1
        return [np.full((-(-len(wave) // 10), 2), 7, np.uint16) for wave in waves]

    def decode(self, codes: Codes) -> Wave:
        return np.zeros(len(codes) * 10, np.float32)

    def to_bytes(self) -> None:
        return


def clip(path: Path, seconds: float = 1.0) -> Path:
    soundfile.write(path, np.linspace(-0.5, 0.5, round(2000 * seconds)), 2000)
    return path


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@given(
    VISIBLE.filter(lambda path: ":" not in path),
    VISIBLE,
    VISIBLE.filter(lambda word: not set(":[]") & set(word)) | st.just(""),
)
def test_a_context_is_cut_at_its_first_and_last_colon(path: str, text: str, speaker: str) -> None:
    found = parse_context(f"{path}:{text}:{speaker}")
    assert (found.path, found.text, found.speaker) == (Path(path), text, speaker or None)


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
def test_a_context_that_is_none_says_how_to_write_one(value: str, reason: str) -> None:
    with pytest.raises(PromptError, match=reason) as caught:
        parse_context(value)
    assert repr(value) in str(caught.value)
    assert any(
        way in str(caught.value)
        for way in ("clip.wav:transcript:speaker", "rename it", "write it again")
    )


def test_a_file_of_sentences_and_of_whole_prompts(tmp_path: Path) -> None:
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
        ([{"text": "Hi.", "speakr": "a"}], ["entry 1", "speakr", "unknown key"]),
        ([{"text": "Hi.", "speaker": True}], ["entry 1", "speaker", "true"]),
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
def test_a_bad_file_names_entry_field_value_and_rule(
    tmp_path: Path, content: Any, words: list[str]
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(PromptError) as caught:
        read_prompts(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_speaker_may_be_a_number(tmp_path: Path) -> None:
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


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(PromptError) as caught:
        read_prompts(write(tmp_path, ["", {"txt": "Hi."}]))
    assert [
        line.split(":")[0].removeprefix(f"{tmp_path}/prompts.json ")
        for line in str(caught.value).splitlines()
    ] == ["entry 1 text", "entry 2 text", "entry 2 txt"]


@pytest.mark.parametrize("name", ["none.json", "."])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
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
def test_any_json_is_prompts_or_a_message(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    path = tmp_path_factory.mktemp("any") / "p.json"
    path.write_text(json.dumps(value))
    try:
        prompts = read_prompts(path)
    except PromptError as error:
        assert str(path) in str(error)  # noqa: PT017 - not every JSON is wrong
    else:
        assert len(prompts) == len(value)


def test_context_is_resampled_cut_and_encoded_once(tmp_path: Path) -> None:
    path, codec = clip(tmp_path / "a.wav", 2.0), Counter()
    whole = ContextClip("w", path, "Whole.")
    part = ContextClip("p", path, "Part.", "ben", 0.5, 1.0)
    first, second = voiced(
        [AskedPrompt("1", "A.", context=(whole, part)), AskedPrompt("2", "B.", "cora", (part,))],
        codec,
        speaker="anna",
        names_speakers=True,
    )
    assert codec.calls == 2
    assert [(len(t.codes), t.text, t.speaker) for t in first.prompt.context] == [
        (200, "Whole.", "anna"),
        (50, "Part.", "ben"),
    ]
    assert (first.prompt.speaker, second.prompt.speaker) == ("anna", "cora")
    assert first.facts == [
        {"path": str(path), "text": "Whole.", "speaker": "anna", "seconds": 2.0},
        {"path": str(path), "text": "Part.", "speaker": "ben", "seconds": 0.5},
    ]


def test_a_model_without_speakers_is_told_none(tmp_path: Path) -> None:
    asked = [
        AskedPrompt("1", "A.", "ben", (ContextClip("c", clip(tmp_path / "a.wav"), "Hm.", "ben"),))
    ]
    (one,) = voiced(asked, Counter(), speaker="anna", names_speakers=False)
    assert (one.prompt.speaker, one.prompt.context[0].speaker) == ("", "")


def test_what_is_asked_for_twice_is_there_once() -> None:
    asked = [AskedPrompt("1", "A."), AskedPrompt("2", "B."), AskedPrompt("3", "A.", "anna")]
    assert [
        one.prompt.text for one in voiced(asked, Counter(), speaker="anna", names_speakers=True)
    ] == ["A.", "B."]


def test_the_id_is_that_of_everything_that_is_asked_for(tmp_path: Path) -> None:
    def turns(*contexts: ContextClip) -> str:
        (one,) = voiced(
            [AskedPrompt("", "A.", context=contexts)],
            Counter(),
            speaker="anna",
            names_speakers=True,
        )
        return one.prompt.id

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
    # The samples of a run from before prompts had contexts keep their folders.
    assert make_prompt("Hello.", "999").id == "499da7934636"


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (None, 9.0, "past the file's end"),
        (0.5, 0.25, "is not after"),
        (5.0, None, "not before the file's end"),
    ],
)
def test_a_span_that_is_not_in_the_clip_names_the_prompt(
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
        voiced([asked], Counter(), speaker="0", names_speakers=True)
    with pytest.raises(
        PromptError, match=r"p\.json entry 3 context 1: .*a\.wav: .*" + reason
    ) as caught:
        check_clips([asked])  # before a model is loaded
    assert "row" not in str(caught.value).removeprefix(str(tmp_path))


def test_a_missing_clip_is_told_without_encoding_any(tmp_path: Path) -> None:
    with pytest.raises(
        PromptError,
        match=(
            r"--context 'x': .*none\.wav: no such file; check its path; one with a colon goes into"
            r" --prompts"
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


def lengths(prompts: list[VoicedPrompt], max_sec: float) -> int:
    return check_lengths(
        prompts,
        open_tokenizer(codec="melrvq"),
        codecs.open_codec("melrvq"),
        max_sec,
        option="max_sec",
    )


def test_seconds_that_the_model_cannot_hold() -> None:
    prompts = [VoicedPrompt(make_prompt("Hello.", "0"))]
    assert lengths(prompts, 10) == 125
    assert lengths(prompts, 10.01) == 126
    with pytest.raises(PromptError, match="--max_sec 200 is more than the 163 s"):
        lengths(prompts, 200)


def test_a_text_that_the_model_cannot_hold_beside_its_seconds() -> None:
    long = VoicedPrompt(make_prompt("word " * 300, "0"))
    num_tokens = len(open_tokenizer(codec="melrvq").encode(long.prompt.text, "0"))
    room_sec = int((2048 - num_tokens) * 0.08)
    with pytest.raises(
        PromptError,
        match=rf"takes {num_tokens} of the model's 2048 positions.*give --max_sec {room_sec},",
    ):
        lengths([VoicedPrompt(make_prompt("Hello.", "0")), long], room_sec + 1)
    assert lengths([long], room_sec) == -(-room_sec * 100 // 8)
    with pytest.raises(PromptError, match="give a shorter text"):
        lengths([VoicedPrompt(make_prompt("word " * 3000, "0"))], 1)
