"""CSM's prompts, while training and for `generate`, and the encoder that goes with weights.

Codec and tokenizer of weights are, in this order: what the options name; what made the token file,
or is recorded beside the weights; what the size of the model tells.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_ft import codecs
from csm_ft.codecs.base import Codec
from csm_ft.config.generate import GenerateConfig
from csm_ft.config.train import TrainConfig
from csm_ft.console import console, shorten
from csm_ft.data.examples import turns_before
from csm_ft.data.split import Store
from csm_ft.data.tags import count_tags
from csm_ft.errors import ConfigError, EncoderError, HubError, PromptError
from csm_ft.families.base import EncoderRecord, Prompt, SamplingOptions, Turn
from csm_ft.families.csm.config import CsmConfig, CsmGenerateConfig
from csm_ft.families.csm.encoder import (
    CsmEncoder,
    TextTokenizer,
    open_tokenizer,
    tokenizer_from_store,
)
from csm_ft.families.csm.size import MAX_POSITIONS
from csm_ft.families.encoder import Encoder
from csm_ft.families.prompts import (
    AskedPrompt,
    check_clips,
    check_speaker,
    check_text,
    make_prompt,
    make_prompts,
    make_turn,
    parse_context,
    read_prompts,
)
from csm_ft.families.tags import check_tags, given_tags
from csm_ft.families.template import DEFAULT_TEMPLATE, TextTemplate

if TYPE_CHECKING:
    from csm_ft.families.model import SpeechModel

_NUM_VALIDATION_PROMPTS = 2
_DEFAULT_SPEAKER = "0"
_WAYS = (
    "name the token file (--data tokens.hdf5), or codec and tokenizer (--codec mimi|melrvq"
    " --codec_source ... --tokenizer ...)"
)
_RECORDED = {  # facts that a record of codec and tokenizer must have
    "codec": str,
    "codec_source": str,
    "codec_fingerprint": str,
    "num_codebooks": int,
    "tokenizer": str,
    "tokenizer_fingerprint": str,
    "template": str,
}


def speaker_rule(speaker: str) -> str:
    """Return why a name cannot stand as [speaker] before a text, or ""."""
    if any(letter in "[]" or not letter.isprintable() for letter in speaker):
        return (
            "has brackets or control characters, but stands as [speaker] before the text; rename it"
        )
    return ""


def check_prompts(config: TrainConfig | GenerateConfig) -> None:
    """Check texts, speakers and context clips, without opening a codec or a model."""
    if isinstance(config, CsmConfig):
        check_clips(_asked_while_training(config))
    else:
        assert isinstance(config, CsmGenerateConfig), "CSM's own options"
        check_clips(_asked_of_generate(config))


def sample_prompts(
    config: TrainConfig, store: Store, encoder: Encoder
) -> tuple[list[Prompt], SamplingOptions]:
    """Return gen_sentences and gen_prompts, or else the first validation clips."""
    assert isinstance(config, CsmConfig), "CSM's own options"
    options = SamplingOptions(
        config.seed, config.gen_temperature, config.gen_topk, config.gen_max_sec
    )
    asked, encoder = _asked_while_training(config), _csm(encoder)
    if not asked:
        return _validation_prompts(store, encoder.template), options
    check_tags(asked, encoder.template, lambda: count_tags(store.splits["train"]))
    prompts = make_prompts(
        asked, encoder, speaker=config.gen_speaker, names_speakers=encoder.template.names_speakers
    )
    check_lengths(prompts, encoder, config.gen_max_sec, option="gen_max_sec")
    return prompts, options


def generate_prompts(
    config: GenerateConfig, record: EncoderRecord, encoder: Encoder
) -> tuple[list[Prompt], SamplingOptions]:
    """Return what --text, --context and --prompts ask for, each prompt once."""
    assert isinstance(config, CsmGenerateConfig), "CSM's own options"
    asked, encoder = _asked_of_generate(config), _csm(encoder)
    speaker = _choose_speaker(config, record, encoder)
    _warn_of_speakers(asked, speaker, record, encoder)
    check_tags(asked, encoder.template, lambda: record.tags)
    prompts = make_prompts(
        asked, encoder, speaker=speaker, names_speakers=encoder.template.names_speakers
    )
    if len(prompts) < len(asked):
        console.print(
            f"{len(asked) - len(prompts)} prompts are asked for twice; each is spoken once"
            " (--num_takes for more)"
        )
    check_lengths(prompts, encoder, config.max_sec, option="max_sec")
    return prompts, SamplingOptions(config.seed, config.temperature, config.topk, config.max_sec)


def check_lengths(
    prompts: Sequence[Prompt], encoder: CsmEncoder, max_sec: float, *, option: str
) -> None:
    """Raise PromptError for a text that leaves no room for max_sec (of `option`) in the model."""
    frame_sec = encoder.frame_sec
    max_frames = math.ceil(max_sec / frame_sec)
    if max_frames >= MAX_POSITIONS:
        raise PromptError(
            f"--{option} {max_sec:g} is more than the {int(MAX_POSITIONS * frame_sec)} s that the"
            " model holds; give a smaller one"
        )
    for prompt in prompts:
        num_tokens = len(encoder.encode_words(prompt.text, prompt.speaker, prompt.tags))
        room = MAX_POSITIONS - num_tokens
        if room >= max_frames:
            continue
        hint = "a shorter text"
        if room * frame_sec >= 1:
            hint = f"--{option} {int(room * frame_sec)}"
        raise PromptError(
            f"{prompt.text[:40]!r} takes {num_tokens} of the model's {MAX_POSITIONS} positions,"
            f" and --{option} {max_sec:g} {max_frames} more, which is too much; give {hint}, or"
            " cut the text into several prompts"
        )


def open_generator(
    config: GenerateConfig, record: EncoderRecord, model: "SpeechModel", device: str
) -> CsmEncoder:
    """Open the codec and the tokenizer that go with weights.

    ConfigError when they are not found, or do not fit the model; it names the ways out.
    """
    from csm_ft.families.csm.model import CsmModel

    assert isinstance(config, CsmGenerateConfig), "CSM's own options"
    assert isinstance(model, CsmModel), "a model of this family"
    _check_record(config, record)
    by_options = config.codec != "auto" or bool(config.codec_source)
    try:
        codec = _open_codec(config, record, model, device)
        tokenizer = _open_tokenizer(config, record, codec)
    except (EncoderError, HubError) as error:
        raise ConfigError(f"{record.label}: {error}; or {_WAYS}") from error
    _check_fit(record, model, codec, tokenizer)
    template = DEFAULT_TEMPLATE
    if record.store is not None:
        template = record.store.info.facts["template"]
    found = record.found
    if record.store is None:
        found = f"its size ({codec.num_codebooks} codebooks)"
        if by_options:
            found = "the options"
    console.print(f"{record.label}: {codec.name} and tokenizer by {found}", markup=False)
    foreign = _foreign(record, codec, tokenizer)
    if foreign:
        console.print(
            f"warning: not the {' and '.join(foreign)} that the model was trained with: it may"
            " give noise",
            style="yellow",
        )
    return CsmEncoder(codec, tokenizer, template)


def _asked_while_training(config: CsmConfig) -> list[AskedPrompt]:
    """Return gen_sentences, by the speaker gen_speaker, and gen_prompts."""
    check_speaker("--gen_speaker", config.gen_speaker, speaker_rule)
    asked = [AskedPrompt("gen_sentences", text) for text in config.gen_sentences]
    if config.gen_prompts:
        asked += read_prompts(Path(config.gen_prompts), speaker_rule)
    return asked


def _asked_of_generate(config: CsmGenerateConfig) -> list[AskedPrompt]:
    """Return the prompts of --text (each after the clips of --context) and of --prompts."""
    context = tuple(parse_context(value, speaker_rule) for value in config.context)
    texts = [check_text("--text", text) for text in config.text]
    if not texts and not config.prompts:
        raise PromptError(
            'nothing to speak; give --text "Hello." (once or more), or --prompts file.json'
        )
    if config.speaker:
        check_speaker("--speaker", config.speaker, speaker_rule)
    if context and not texts:
        raise PromptError(
            "--context goes with --text; the prompts of --prompts have their context in the file"
        )
    asked = [AskedPrompt("--text", text, context=context) for text in texts]
    if config.prompts:
        asked += read_prompts(Path(config.prompts), speaker_rule)
    tags = given_tags(config)
    return [replace(one, tags={**tags, **one.tags}) for one in asked]


def _validation_prompts(store: Store, template: TextTemplate) -> list[Prompt]:
    """Return the first validation clips, after the turns of their conversation before them."""
    split = store.splits["val"]

    def turn(row: int) -> Turn:
        clip = split.clip(row)
        codes = {"codes": split.array("codes", row)}
        speaker = clip.speaker if template.names_speakers else ""
        made = make_turn(clip.text, speaker, codes, store.info.frame_sec, clip.source)
        return replace(made, tags=template.own(clip.tags))

    prompts: dict[str, Prompt] = {}
    for row in range(min(_NUM_VALIDATION_PROMPTS, len(split))):
        this = turn(row)
        if this.text:
            before = [turn(other) for other in turns_before(split, row)]
            prompt = make_prompt(this.text, this.speaker, before, tags=this.tags)
            prompts.setdefault(prompt.id, prompt)
    return list(prompts.values())


def _choose_speaker(config: CsmGenerateConfig, record: EncoderRecord, encoder: CsmEncoder) -> str:
    """Return --speaker, or else the most frequent one of the training, or that of its samples."""
    if config.speaker:
        return config.speaker.strip()
    speaker, why = _DEFAULT_SPEAKER, "the default"
    if record.speakers:
        speaker, why = record.speakers[0], "trained on most"
    elif isinstance(record.config, CsmConfig):
        speaker = record.config.gen_speaker
    if len(record.speakers) == 1:
        why = "the one the model was trained on"
    if encoder.template.names_speakers:
        console.print(f"speaker {speaker} ({why}); --speaker names another", markup=False)
    return speaker


def _warn_of_speakers(
    asked: Sequence[AskedPrompt], speaker: str, record: EncoderRecord, encoder: CsmEncoder
) -> None:
    """Name the speakers that the model was not trained on."""
    clips = [clip for one in asked for clip in one.context]
    named = {one.speaker for one in (*asked, *clips) if one.speaker}
    if not encoder.template.names_speakers:
        if named:
            console.print(
                "[yellow]this model was trained without speakers (--omit_speaker_id): the prompts'"
                " speakers are not used[/]"
            )
        return
    if any(not one.speaker for one in asked):
        named.add(speaker)
    unknown = sorted(named - set(record.speakers)) if record.speakers else []
    if unknown:
        console.print(
            f"warning: the model was not trained on speaker {', '.join(unknown)}, but on"
            f" {shorten(record.speakers)}; expect a voice of its own choice",
            style="yellow",
            markup=False,
        )


def _check_record(config: CsmGenerateConfig, record: EncoderRecord) -> None:
    """Raise ConfigError for a record that lacks something, and for a run without its token file."""
    if record.store is None:
        if record.config is not None and config.codec == "auto":
            raise ConfigError(
                f"{record.label}: {record.found}. Put it back, {_WAYS}; an export (python -m"
                " csm_ft.export) needs none"
            )
        return
    if record.store.splits:  # a token file, whose family has written it
        return
    facts = record.store.info.facts
    wrong = [name for name, kind in _RECORDED.items() if not isinstance(facts.get(name), kind)]
    if not wrong:
        # From the working folder, where a file of that name lies by chance.
        wrong = [name for name in ("codec_source", "tokenizer") if facts[name].startswith(".")]
        wrong += ["codec"] if facts["codec"] not in ("mimi", "melrvq") else []
    if wrong:
        raise ConfigError(
            f"{record.found}: {', '.join(wrong)} is not what csm_ft.export writes; export again,"
            f" or {_WAYS}"
        )


def _open_codec(config: CsmGenerateConfig, record: EncoderRecord, model: Any, device: str) -> Codec:
    size = model.size
    if config.codec == "auto" and not config.codec_source and record.store is not None:
        return codecs.from_facts(record.store.info.facts, record.store.asset("codec"), device)
    name = config.codec
    if name == "auto" and record.store is not None:
        name = record.store.info.facts["codec"]
    if name == "auto":
        name = codecs.guess(size.num_codebooks, size.audio_vocab_size)
    source = config.codec_source or "auto"
    return codecs.open_codec(name, source, num_codebooks=size.num_codebooks, device=device)


def _open_tokenizer(
    config: CsmGenerateConfig, record: EncoderRecord, codec: Codec
) -> TextTokenizer:
    if config.tokenizer or record.store is None:
        return open_tokenizer(config.tokenizer or "auto", codec=codec.name)
    return tokenizer_from_store(record.store)


def _foreign(record: EncoderRecord, codec: Codec, tokenizer: TextTokenizer) -> list[str]:
    """Return which of the two are not those of the training, as far as its hashes are known."""
    if record.store is not None:
        facts = record.store.info.facts
        known = {name: facts[f"{name}_fingerprint"] for name in ("codec", "tokenizer")}
    else:
        was = record.fingerprints
        known = {"codec": was.get("audio", ""), "tokenizer": was.get("text", "")}
    has = {"codec": codec.fingerprint, "tokenizer": tokenizer.fingerprint}
    return [name for name, value in has.items() if known[name] not in ("", value)]


def _check_fit(record: EncoderRecord, model: Any, codec: Codec, tokenizer: TextTokenizer) -> None:
    size = model.size
    by_codec, by_tokenizer = f"the {codec.name} {codec.source}", f"the tokenizer {tokenizer.source}"
    counts = (
        ("codebooks", size.num_codebooks, by_codec, codec.num_codebooks),
        ("audio ids", size.audio_vocab_size, by_codec, codec.vocab_size),
        ("text ids", size.text_vocab_size, by_tokenizer, tokenizer.vocab_size),
    )
    for what, in_model, owner, in_owner in counts:
        fits = in_owner == in_model if what == "codebooks" else in_owner <= in_model
        if not fits:
            raise ConfigError(
                f"{record.label} has {in_model} {what}, {owner} has {in_owner}: they were not made"
                f" for each other; {_WAYS}"
            )


def _csm(encoder: Encoder) -> CsmEncoder:
    assert isinstance(encoder, CsmEncoder), "CSM's own encoder"
    return encoder
