"""What Moshi is asked for: to continue a dialogue, to answer a user, or to speak a text."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csm_ft.data import audio
from csm_ft.data.split import Split
from csm_ft.data.token_file import open_store
from csm_ft.errors import AudioError, PromptError
from csm_ft.families.base import Prompt
from csm_ft.families.moshi.arrange import LEFT, SIDES
from csm_ft.families.moshi.config import MoshiConfig, MoshiGenerateConfig
from csm_ft.families.moshi.data import text_of
from csm_ft.families.moshi.encoder import MoshiEncoder
from csm_ft.families.moshi.foreign import read_parquet
from csm_ft.families.moshi.script import Script
from csm_ft.families.moshi.size import HOLE
from csm_ft.families.prompts import AskedPrompt, check_text, make_prompt, read_prompts
from csm_ft.families.tags import Counts, check_tags, given_tags

_MUST_FIT = ("codec_fingerprint", "tokenizer_fingerprint")  # of a test set and the model


def openings(split: Split, config: MoshiConfig) -> list[Prompt]:
    """Return openings of dialogues, to be continued for gen_sec against the user as recorded.

    The dialogues are those of the smallest ids, which are hashes. At most half of a dialogue is its
    opening. A model that predicts the user continues each a second time, both sides by itself.
    """
    rows = sorted(range(len(split)), key=lambda row: split.ids[row])[: config.gen_clips]
    return [prompt for row in rows for prompt in _openings_of(split, row, config)]


def _openings_of(split: Split, row: int, config: MoshiConfig) -> Iterator[Prompt]:
    frame_sec = float(split.facts["frame_sec"])
    side = SIDES[config.moshi_channel][0]
    codes = _turned(split.array("codes", row), side)
    num_known = min(len(codes) // 2, round(config.gen_prompt_sec / frame_sec))
    codes = codes[: num_known + max(1, round(config.gen_sec / frame_sec))]
    text = text_of(split, row, side, (0, len(codes)))
    clip = split.clip(row)
    real = {"codes": codes, "text": text}
    name = Path(clip.source).stem
    prompt = prompt_of(codes, text[:num_known], reference=clip.text, name=name)
    yield replace(prompt, real=real)
    if config.user_stream:
        reference = f"{clip.text} (both sides generated)"
        hears = {"num_heard": num_known, "reference": reference, "name": name}
        yield replace(prompt_of(codes, text[:num_known], **hears), real=real)


def asked(
    config: MoshiGenerateConfig, encoder: MoshiEncoder, heard: Callable[[], Counts]
) -> list[Prompt]:
    """Return the prompts of the options; PromptError if there is none, or a sound is none.

    `heard` returns the tags that the model was trained with.
    """
    texts = asked_texts(config)
    if not (config.dialogue or config.user or config.test_data or texts):
        raise PromptError(
            "nothing is asked for: name recordings with --dialogue (to continue) or --user (to"
            ' answer), a set of dialogues (--test_data), or a text (--text "Hello.", or --prompts'
            " file.json)"
        )
    known = round(config.prompt_sec / encoder.frame_sec)
    longest = round(config.max_sec / encoder.frame_sec)
    prompts = []
    for path in map(Path, config.dialogue):
        codes = _turned(_encode(path, "--dialogue", encoder), SIDES[config.moshi_channel][0])
        num_known = min(known, len(codes))
        # What Moshi said in the prompt is heard, not read: it has no words with times.
        text = np.full(num_known, encoder.padding_id)
        if config.invent_user:
            codes = np.resize(codes[:num_known], (num_known + longest, codes.shape[1]))
        codes = codes[: known + longest]
        hears = num_known if config.invent_user else len(codes)
        prompts.append(prompt_of(codes, text, num_heard=hears, name=path.stem))
    for path in map(Path, config.user):
        codes = _encode(path, "--user", encoder)[:longest]
        prompts.append(prompt_of(codes, np.zeros(0, np.int64), name=path.stem))
    if config.test_data:
        prompts += prompts_of_test_set(config, encoder)
    check_tags(texts, encoder.template, heard)
    return [*prompts, *_spoken(texts, encoder, longest)]


def prompts_of_test_set(config: MoshiGenerateConfig, encoder: MoshiEncoder) -> list[Prompt]:
    """Return the openings of the dialogues of a test set, of tokens; PromptError."""
    side = SIDES[config.moshi_channel][0]
    known = round(config.prompt_sec / encoder.frame_sec)
    stop = known + round(config.max_sec / encoder.frame_sec)
    prompts: list[Prompt] = []
    for name, codes, text in itertools.islice(
        _test_dialogues(config, encoder, side), config.test_dialogues or None
    ):
        codes = _turned(codes, side)[:stop]
        num_known = min(known, len(codes))
        prompt = prompt_of(codes, text[:num_known], name=name)
        prompts.append(replace(prompt, real={"codes": codes, "text": text[: len(codes)]}))
    return prompts


def _test_dialogues(
    config: MoshiGenerateConfig, encoder: MoshiEncoder, side: int
) -> Iterator[tuple[str, NDArray[np.uint16], NDArray[np.int64]]]:
    """Yield name, codes [T, 2K] and text [T] of a side, for each dialogue of a test set."""
    path = Path(config.test_data)
    if path.suffix == ".parquet":
        for dialogue in read_parquet(path, encoder):
            yield dialogue.name, dialogue.codes, dialogue.texts[side]
        return
    store = open_store(path, in_memory=False)
    facts = {name: store.info.facts.get(name) for name in _MUST_FIT}
    others = [name for name in _MUST_FIT if facts[name] != encoder.facts[name]]
    if store.info.family != "moshi" or others:
        what = ", ".join(others) or f"family ({store.info.family})"
        raise PromptError(
            f"--test_data {path}: another {what} made its tokens than those the model was trained"
            " on; pretokenise the test set as the training set"
        )
    split = store.splits[config.test_split]
    for row in range(len(split)):
        codes = split.array("codes", row)
        text = text_of(split, row, side, (0, len(codes)))
        yield Path(split.clip(row).source).stem, codes, text


def asked_texts(config: MoshiGenerateConfig) -> list[AskedPrompt]:
    """Return the prompts of --text and --prompts; PromptError for one that cannot be spoken."""
    asked = [AskedPrompt("--text", check_text("--text", text)) for text in config.text]
    if config.prompts:
        asked += read_prompts(Path(config.prompts))
    for one in asked:
        if one.context:
            raise PromptError(
                f"{one.where}: Moshi takes no context clips; --dialogue continues a recording"
            )
    tags = given_tags(config)
    return [replace(one, tags={**tags, **one.tags}) for one in asked]


def _spoken(texts: Sequence[AskedPrompt], encoder: MoshiEncoder, num_frames: int) -> list[Prompt]:
    """Return prompts for texts to be spoken to a user who is silent; each is there once."""
    if not texts:
        return []
    silence = np.zeros((2, round(num_frames * encoder.frame_sec * encoder.sample_rate_hz)))
    (arrays,) = encoder.encode_audio([silence.astype(np.float32)])
    assert not isinstance(arrays, str), "silence is sound"
    hears = prompt_of(arrays["codes"], np.zeros(0, np.int64)).arrays
    names_speakers = encoder.template.names_speakers
    prompts: dict[str, Prompt] = {}
    for one in texts:
        speaker = (one.speaker or "") if names_speakers else ""
        prompt = make_prompt(one.text, speaker, name=one.name, tags=one.tags)
        script = Script.to_arrays(encoder.script(one.text, speaker, one.tags))
        prompts.setdefault(prompt.id, replace(prompt, arrays={**hears, **script}))
    return list(prompts.values())


def _encode(path: Path, flag: str, encoder: MoshiEncoder) -> NDArray[np.uint16]:
    """Return the codes of both sides of a recording, [T, 2K]; a user's is mono, on the right."""
    is_user = flag == "--user"
    try:
        channel = "mix" if is_user else "both"
        wave = audio.load(path, sample_rate_hz=encoder.sample_rate_hz, channel=channel)
    except AudioError as error:
        hint = "give a stereo recording, or a user's voice alone with --user"
        raise PromptError(f"{flag}: {error}; {'name another file' if is_user else hint}") from error
    if is_user:
        wave = np.stack([np.zeros_like(wave), wave])
    (arrays,) = encoder.encode_audio([wave])
    if isinstance(arrays, str):
        raise PromptError(f"{flag} {path}: {arrays}")
    return arrays["codes"]


def _turned(codes: NDArray[np.uint16], side: int) -> NDArray[np.uint16]:
    """Return codes [T, 2K] with those of Moshi's side first."""
    return codes if side == LEFT else np.roll(codes, codes.shape[1] // 2, axis=1)


def prompt_of(
    codes: NDArray[np.uint16],
    text: NDArray[np.int64],
    *,
    num_heard: int | None = None,
    reference: str = "",
    name: str = "",
) -> Prompt:
    """Return a prompt of codes [T, 2K], Moshi's half first, and its text [P].

    Moshi's half is known for P frames, the user's for `num_heard`; None = for all.
    """
    num_own = codes.shape[1] // 2
    tokens = np.concatenate([np.full((1, len(codes)), HOLE), codes.T.astype(np.int64)])
    tokens[0, : len(text)] = text
    tokens[1 : 1 + num_own, len(text) :] = HOLE
    tokens[1 + num_own :, len(codes) if num_heard is None else num_heard :] = HOLE
    digest = hashlib.blake2b(f"{tokens.shape} ".encode() + tokens.tobytes(), digest_size=6)
    return Prompt(digest.hexdigest(), reference, arrays={"tokens": tokens}, name=name)
