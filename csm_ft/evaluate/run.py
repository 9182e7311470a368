"""Evaluate weights or a folder of samples: judge what they say, and measure them on data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from csm_ft.atomic import disk_errors, whole_folder
from csm_ft.config.evaluate import EvaluateConfig
from csm_ft.console import console
from csm_ft.data import audio
from csm_ft.data.split import Store
from csm_ft.device import choose_device, choose_dtype
from csm_ft.errors import ConfigError, HubError, WeightsError
from csm_ft.evaluate import prompts, recordings
from csm_ft.evaluate.emotions import add_expression
from csm_ft.evaluate.judge import Judges, References, SpokenClip, judge, open_judges
from csm_ft.evaluate.on_data import measure_on_data
from csm_ft.evaluate.results import (
    PAGE,
    RESULTS,
    EvaluatedRow,
    Evaluation,
    Kind,
    make_row,
    write_results,
)
from csm_ft.families import open_family
from csm_ft.families.base import Encoder, EncoderRecord, Family
from csm_ft.families.model import SpeechModel
from csm_ft.families.stores import is_foreign, open_store
from csm_ft.generate.run import Generator, generate
from csm_ft.report.evaluation import write_page
from csm_ft.runs.encoder_record import find_record
from csm_ft.runs.source import Source, find

FOLDER = "evaluation"
_DEAF = 0.5  # word error rate on real recordings from which a recogniser is no judge


@dataclass
class _Evaluator:
    """What all rows of one evaluation have in common."""

    config: EvaluateConfig
    folder: Path  # the draft that is written
    judges: Judges
    store: Store | None
    encoder: Encoder | None
    references: References = field(default_factory=References)
    rows: list[EvaluatedRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, kind: Kind, clips: Sequence[SpokenClip], **more: object) -> None:
        """Judge clips and add them as a row."""
        if not clips and not more.get("on_data"):
            return
        console.print(f"judging {len(clips)} clips of {name}", markup=False)
        self.rows.append(make_row(name, kind, judge(clips, self.judges, self.references), **more))

    def finish(self, title: str) -> None:
        """Write evaluation.json and the page."""
        self._tell_deafness()
        add_expression(self.rows, self.store, self.encoder, self.notes)
        store = self.store
        evaluation = Evaluation(
            title,
            self.rows,
            self.judges.versions(),
            self.judges.missing(),
            self.notes,
            options=self.config.model_dump(mode="json"),
            data={"path": store.path.name, "content": store.info.content_fingerprint}
            if store
            else {},
        )
        write_results(evaluation, self.folder)
        write_page(evaluation, self.folder)

    def _tell_deafness(self) -> None:
        for row in self.rows:
            wer = row.summary.get("wer")
            if row.kind in ("codec", "recordings") and wer and wer.value > _DEAF:
                self.notes.append(
                    f"the recogniser itself errs on {wer.value:.0%} of the words of {row.name}: it"
                    " does not know this language or these voices; name another with --asr"
                )


def evaluate(config: EvaluateConfig, source: Source, family: Family) -> Path:
    """Evaluate what `config` names; return the page."""
    is_samples = recordings.is_samples(Path(config.model))
    output = _output(config, source, is_samples)
    device = choose_device(config.device)
    record = None if is_samples else find_record(source, config.data)
    store = _store(config, record, is_samples)
    if store is not None and record is not None and store.info.family != family.name:
        raise ConfigError(
            f"{store.path} is of the family {store.info.family}, {record.label} of {family.name};"
            " name the token file of its training with --data"
        )
    judges = open_judges(config.asr, config.embedder, language=config.language, device=device)
    for line in (*judges.versions().values(), *judges.missing()):
        console.print(line, markup=False)
    encoder = None
    if store is not None:
        encoder = open_family(store.info.family).open_encoder(store, device)
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(output) as draft:
        evaluator = _Evaluator(config, draft, judges, store, encoder)
        if store is not None and encoder is not None:
            evaluator.references = recordings.make_references(store, encoder, judges, config.seed)
        if is_samples:
            _judge_samples(evaluator, Path(config.model))
        else:
            assert record is not None, "checked by _store"
            assert store is not None, "checked by _store"
            _judge_weights(evaluator, source, replace(record, store=store), family)
        evaluator.finish(Path(config.model).resolve().name if is_samples else source.label)
    return output / PAGE


def _judge_samples(evaluator: _Evaluator, folder: Path) -> None:
    """Judge a folder of samples; the real recordings of the same texts stand beside them."""
    found = recordings.samples_of(folder)
    for name, clips in found.items():
        for clip in clips:
            rate = clip.sample_rate_hz
            audio.save(evaluator.folder / clip.id, clip.wave, rate)
        evaluator.add(name, "model", clips)
    store = evaluator.store
    if store is not None:
        texts = {clip.text for clips in found.values() for clip in clips}
        split = store.splits["val"]
        rows = [row for row in range(len(split)) if split.clip(row).text in texts]
        _add_real(evaluator, rows or list(range(min(evaluator.config.n_prompts, len(split)))))


def _judge_weights(
    evaluator: _Evaluator, source: Source, record: EncoderRecord, family: Family
) -> None:
    """Generate and judge what the weights and their base say, and measure both on the data."""
    config, store = evaluator.config, record.store
    assert store is not None, "checked by _store"
    assert evaluator.encoder is not None, "opened with the store"
    chosen = None
    if "prompts" in family.generate_config.model_fields:
        chosen = _choose(config, store, evaluator.encoder)
        chosen.write(evaluator.folder / "prompts.json")
        evaluator.notes += chosen.notes
    else:
        evaluator.notes.append(
            f"the family {family.name} does not speak: it is measured on the data only"
        )
    for name, kind, one in _models(evaluator, source, family):
        model = one.requires_grad_(False).to(choose_device(config.device))
        train_config = record.config or family.train_config(data=str(store.path))
        examples = family.arrange(store.splits["val"], train_config, evaluate=True)
        on_data, by_group = measure_on_data(model, family, examples, train_config)
        clips = []
        if chosen is not None:
            clips = _speak(evaluator, model, record, family, kind)
        evaluator.add(name, kind, clips, on_data=on_data, by_group=by_group)
    if chosen is not None:
        rows = list(chosen.rows) or list(range(min(config.n_prompts, len(store.splits["val"]))))
        _add_real(evaluator, rows)


def _models(
    evaluator: _Evaluator, source: Source, family: Family
) -> Iterator[tuple[str, Kind, SpeechModel]]:
    """Load the weights, then their base, one after the other."""
    yield source.label, "model", family.load_model(source.weights)
    base = evaluator.config.base
    if base == "none":
        return
    name = source.base if base == "auto" else base
    if not name or name == source.weights:
        evaluator.notes.append("no base model: training began with random weights or none is known")
        return
    try:
        yield f"base: {find(name).label}", "base", family.load_model(find(name).weights)
    except (WeightsError, HubError) as error:
        if base != "auto":
            raise
        evaluator.notes.append(f"the base model is left out: {error}")


def _speak(
    evaluator: _Evaluator,
    model: SpeechModel,
    record: EncoderRecord,
    family: Family,
    kind: Kind,
) -> list[SpokenClip]:
    """Generate all takes of all prompts into a folder of their own, and read them back."""
    config, folder = evaluator.config, evaluator.folder / kind
    device = choose_device(config.device)
    options: dict[str, object] = {"max_sec": config.max_sec} if config.max_sec else {}
    asked = family.generate_config.model_validate(
        {
            "model": config.model,
            "family": family.name,
            "prompts": str(evaluator.folder / "prompts.json"),
            "output": str(folder),
            "num_takes": config.num_takes,
            "seed": config.seed,
            "batch_size": config.batch_size,
            "device": config.device,
            "dtype": config.dtype,
            **options,
        }
    )
    family.check_prompts(asked)
    encoder = family.open_generator(asked, record, model, device)
    wanted, sampling = family.generate_prompts(asked, record, encoder)
    generator = Generator(model, encoder, kind, device, choose_dtype(config.dtype, device))
    for _ in generate(generator, wanted, sampling, asked):
        pass
    (clips,) = recordings.samples_of(folder).values()
    return [_with_place(clip, kind, record) for clip in clips]


def _with_place(clip: SpokenClip, folder: str, record: EncoderRecord) -> SpokenClip:
    """Name a sample by its path, and its voice where the model reads no names."""
    speaker = clip.speaker or (record.speakers[0] if record.speakers else "")
    return replace(clip, id=f"{folder}/{clip.id}", speaker=speaker)


def _add_real(evaluator: _Evaluator, rows: Sequence[int]) -> None:
    """Add the recordings of validation clips, after the codec and as they are."""
    store, encoder = evaluator.store, evaluator.encoder
    if store is None or encoder is None:
        return
    add_real_rows(evaluator, store, encoder, [("val", row) for row in rows])


def add_real_rows(
    evaluator: _Evaluator, store: Store, encoder: Encoder, places: Sequence[tuple[str, int]]
) -> None:
    """Add two rows for clips of a token file, and write their sounds for the page."""
    coded: list[SpokenClip] = []
    original: list[SpokenClip] = []
    for name, split in store.splits.items():
        rows = [row for own, row in places if own == name]
        coded += recordings.through_codec(split, rows, encoder)
        rate = encoder.sample_rate_hz
        original += recordings.as_recorded(split, rows, rate, evaluator.notes)
    titles: Mapping[Kind, str] = {"codec": "after the codec", "recordings": "real recordings"}
    for kind, clips in (("codec", coded), ("recordings", original)):
        placed = [replace(clip, id=f"{kind}/{clip.id}.wav", prompt=clip.id) for clip in clips]
        for clip in placed:
            path = evaluator.folder / clip.id
            path.parent.mkdir(exist_ok=True)
            audio.save(path, clip.wave, clip.sample_rate_hz)
        evaluator.add(titles[kind], kind, placed)


def _choose(config: EvaluateConfig, store: Store, encoder: Encoder) -> prompts.ChosenPrompts:
    if config.prompts:
        return prompts.from_file(Path(config.prompts), store)
    return prompts.from_validation(store, encoder.columns, config.n_prompts, config.seed)


def _store(config: EvaluateConfig, record: EncoderRecord | None, is_samples: bool) -> Store | None:
    """Return the token file; ConfigError for weights without one."""
    if is_samples:
        path = Path(config.data)
        return open_store(path, in_memory=is_foreign(path)) if config.data else None
    assert record is not None, "weights have a record"
    if record.store is None or not record.store.splits:
        raise ConfigError(
            f"{record.label}: {record.found or 'no token file is known'}; name one with --data: its"
            " validation clips are what the model is measured on"
        )
    return record.store


def _output(config: EvaluateConfig, source: Source, is_samples: bool) -> Path:
    """Return the folder to write; ConfigError if it exists and is no evaluation."""
    home = Path(config.model) if is_samples else source.home
    output = Path(config.output) if config.output else (home or Path()) / FOLDER
    if output.exists() and not (output / RESULTS).is_file():
        raise ConfigError(
            f"--output {output} exists and holds no {RESULTS}: it is not overwritten; name a new"
            " folder"
        )
    return output
