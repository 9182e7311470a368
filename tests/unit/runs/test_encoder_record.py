"""The record of an encoder: written beside exported weights, and found from whatever they are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from csm_ft.data.token_file import open_store
from csm_ft.errors import ConfigError, StoreError
from csm_ft.families.csm.config import CsmConfig
from csm_ft.runs.encoder_record import family_of, find_record, write_record
from csm_ft.runs.source import Source, find
from tests.conftest import ROOT
from tests.helpers.splits import make_split

OLD_KEYS = {  # of speech.json before there were several families
    "codec": "melrvq",
    "codec_source": "codec.safetensors",
    "num_codebooks": 8,
    "codec_vocab_size": 256,
    "sample_rate_hz": 16000,
    "frame_samples": 1280,
    "tokenizer": "tokenizer.json",
    "template": "[{speaker}]{text}",
    "speakers": ["nora"],
}


def facts_in(folder: Path) -> dict[str, object]:
    return json.loads((folder / "speech.json").read_text())


def test_assets_are_named_by_their_files(tokens: Path, tmp_path: Path) -> None:
    store = open_store(tokens)
    write_record(tmp_path, store, "nowhere")
    facts = facts_in(tmp_path)
    assert {**facts, **OLD_KEYS} == facts
    assert facts["family"] == "csm"
    assert facts["codec_fingerprint"] == facts["audio_fingerprint"] == store.info.audio_fingerprint
    assert facts["assets"] == {"codec": "codec.safetensors", "tokenizer": "tokenizer.json"}
    for asset, file in facts["assets"].items():
        assert (tmp_path / file).read_bytes() == store.asset(asset)


def test_large_files_are_named_by_their_source(tokens: Path, tmp_path: Path) -> None:
    store = open_store(tokens)
    names = {"codec_source": "kyutai/mimi", "tokenizer": "meta-llama/Llama-3.2-1B"}
    info = replace(store.info, facts={**store.info.facts, **names})
    write_record(tmp_path, replace(store, info=info, assets={}), "nowhere")
    facts = facts_in(tmp_path)
    assert {**facts, **names} == facts
    assert [path.name for path in tmp_path.iterdir()] == ["speech.json"]


def test_record_reads_back_as_written(tokens: Path, tmp_path: Path) -> None:
    store = open_store(tokens)
    write_record(tmp_path, store, "nowhere")
    record = find_record(Source(str(tmp_path)))
    assert record.store is not None
    assert (record.found, record.speakers) == (str(tmp_path / "speech.json"), ("nora",))
    info = record.store.info
    assert (info.family, info.frame_sec, info.sample_rate_hz) == ("csm", 0.08, 16000)
    assert info.audio_fingerprint == store.info.audio_fingerprint
    assert info.facts["num_codebooks"] == 8
    assert dict(record.store.assets) == dict(store.assets)
    assert record.store.splits == {}


def test_old_records_are_of_the_default_family(tokens: Path, tmp_path: Path) -> None:
    write_record(tmp_path, open_store(tokens), "nowhere")
    (tmp_path / "speech.json").write_text(json.dumps(OLD_KEYS))
    record = find_record(Source(str(tmp_path)))
    assert record.store is not None
    assert record.store.info.family == family_of(Source(str(tmp_path))) == "csm"
    assert set(record.store.assets) == {"codec", "tokenizer"}


def test_family_comes_from_run_or_record(tmp_path: Path) -> None:
    assert family_of(Source(str(tmp_path))) == "csm"
    (tmp_path / "speech.json").write_text('{"family": "toy"}')
    assert family_of(Source(str(tmp_path))) == "toy"
    assert family_of(Source(str(tmp_path), config=CsmConfig(family="other"))) == "other"
    assert family_of(Source("a/b"), "toy") == "toy", "nothing is known of these"


def test_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "speech.json").write_text('{"family": "toy"}')
    assert family_of(Source(str(tmp_path)), "toy") == "toy"
    with pytest.raises(ConfigError, match=r"--family csm: .* is of the family toy; leave the flag"):
        family_of(Source(str(tmp_path)), "csm")


def test_export_of_an_export_keeps_the_record(tokens: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    write_record(first, open_store(tokens), "nowhere")
    write_record(second, None, str(first))
    contents = [{path.name: path.read_bytes() for path in f.iterdir()} for f in (first, second)]
    assert contents[0] == contents[1]
    (first / "speech.json").unlink()
    write_record(third, None, str(first))
    assert list(third.iterdir()) == [], "a tokenizer beside foreign weights may be anybody's"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"family": 3}',
        '{"speakers": "a"}',
        '{"assets": ["a"]}',
        '{"assets": {"codec": "../a"}}',
        '{"assets": {"codec": ".hidden"}}',
        '{"assets": {"codec": 3}}',
    ],
)
def test_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "speech.json").write_text(text)
    with pytest.raises(ConfigError, match=r"speech\.json: .*export again"):
        find_record(Source(str(tmp_path)))


def test_missing_asset_is_named(tokens: Path, tmp_path: Path) -> None:
    write_record(tmp_path, open_store(tokens), "nowhere")
    (tmp_path / "codec.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"names codec\.safetensors, which is not beside it"):
        find_record(Source(str(tmp_path)))


@pytest.fixture
def run(tokens: Path, tmp_path: Path) -> Path:
    """A run without weights, whose token file lies in another folder above it."""
    shutil.copy(tokens, tmp_path / "tokens.hdf5")
    folder = tmp_path / "exp/run"
    (folder / "checkpoints/best").mkdir(parents=True)
    (folder / "config.yaml").write_text(CsmConfig(data="tokens.hdf5").to_yaml())
    info = open_store(tokens).info
    environment = {
        "audio_fingerprint": info.audio_fingerprint,
        "text_fingerprint": info.text_fingerprint,
    }
    (folder / "env.json").write_text(json.dumps(environment))
    return folder


def test_run_is_recorded_by_its_token_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for here in (run.parents[1], run, ROOT):
        monkeypatch.chdir(here)
        record = find_record(find(str(run)))
        assert Path(record.found).resolve() == run.parents[1] / "tokens.hdf5"
        assert record.speakers == ("nora",)
        assert record.label == "run"


def test_data_option_wins(run: Path, tokens: Path) -> None:
    record = find_record(find(str(run)), str(tokens))
    assert record.found == str(tokens)
    with pytest.raises(StoreError, match="no such token file"):
        find_record(find(str(run)), "gone.hdf5")


def test_record_without_token_file_says_why(run: Path) -> None:
    (run.parents[1] / "tokens.hdf5").unlink()
    record = find_record(find(str(run)))
    assert record.store is None
    assert "token file cannot be read" in record.found
    assert set(record.fingerprints) == {"audio", "text"}


def test_speakers_come_most_frequent_first(tokens: Path, tmp_path: Path) -> None:
    split = make_split([3, 4, 5, 6], speakers=["anna", "ben", "ben", ""])
    write_record(tmp_path, replace(open_store(tokens), splits={"train": split}), "nowhere")
    assert find_record(Source(str(tmp_path))).speakers == ("ben", "anna")


def test_hub_weights_without_record(hub: Path) -> None:
    assert find_record(Source("sesame/csm-1b")).store is None
    assert family_of(Source("sesame/csm-1b")) == "csm"
