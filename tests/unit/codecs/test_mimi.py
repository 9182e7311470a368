"""Mimi behind the codec protocol: golden codes of Kyutai's own code, and what loads its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MimiConfig, MimiModel

from csm_ft.codecs import from_facts, open_codec
from csm_ft.codecs.mimi import Mimi
from csm_ft.errors import CodecError

GOLDEN = Path(__file__).parents[2] / "golden"
FACTS = json.loads((GOLDEN / "golden_mimi_tiny.json").read_text())


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "golden_mimi_tiny.safetensors")


@pytest.fixture(scope="module")
def original(golden: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden weights as one of Kyutai's files, with the sizes of the tiny model beside it."""
    folder = tmp_path_factory.mktemp("kyutai")
    weights = {
        name.removeprefix("weights."): tensor
        for name, tensor in golden.items()
        if name.startswith("weights.")
    }
    save_file(weights, folder / "tokenizer-e351c8d8-checkpoint125.safetensors")
    (folder / "config.json").write_text(json.dumps(FACTS["hf_config"]))
    return folder


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Mimi, saved by transformers itself."""
    torch.manual_seed(0)
    model = MimiModel(MimiConfig(**FACTS["hf_config"]))
    for name, buffer in model.named_buffers():
        if name.endswith("embed_sum"):
            buffer.normal_()
    folder = tmp_path_factory.mktemp("hub")
    model.save_pretrained(folder)
    return folder


def noise(*num_samples: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.normal(0, 0.1, n).astype(np.float32) for n in num_samples]


def test_codes_and_sound_are_kyutais(original: Path, golden: dict[str, torch.Tensor]) -> None:
    codec = open_codec("mimi", str(original))
    waves = list(golden["in.wav"][:, 0].numpy())
    for wave, expected, sound in zip(
        waves, golden["out.codes"], golden["out.decoded"], strict=True
    ):
        np.testing.assert_array_equal(codec.encode([wave])[0], expected.numpy().T)
        np.testing.assert_allclose(
            codec.decode(expected.numpy().T.astype(np.uint16)), sound[0].numpy(), atol=1e-4
        )
    np.testing.assert_array_equal(
        np.stack(codec.encode(waves)), golden["out.codes"].numpy().transpose(0, 2, 1)
    )


def test_the_file_itself_may_be_named(original: Path) -> None:
    by_file = open_codec("mimi", str(next(original.glob("tokenizer-*"))))
    assert by_file.fingerprint == open_codec("mimi", str(original)).fingerprint


def test_newer_attention_names_give_the_same(
    original: Path, golden: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    weights = load_file(next(original.glob("tokenizer-*")))
    newer = {
        k.replace("in_proj_weight", "in_projs.0.weight").replace("out_proj.", "out_projs.0."): v
        for k, v in weights.items()
    }
    assert set(newer) != set(weights)
    save_file(newer, tmp_path / "tokenizer-new.safetensors")
    (tmp_path / "config.json").write_text((original / "config.json").read_text())
    wave = golden["in.wav"][0, 0].numpy()
    np.testing.assert_array_equal(
        open_codec("mimi", str(tmp_path)).encode([wave])[0], golden["out.codes"][0].numpy().T
    )


def test_the_protocols_numbers_are_mimis(hub_folder: Path) -> None:
    codec = open_codec("mimi", str(hub_folder))
    assert (codec.name, codec.source, codec.sample_rate_hz, codec.frame_samples) == (
        "mimi",
        str(hub_folder),
        24000,
        1920,
    )
    assert (codec.num_codebooks, codec.vocab_size) == (6, 64 + 3)
    assert codec.to_bytes() is None


def test_a_batch_equals_each_clip_alone(hub_folder: Path) -> None:
    codec = open_codec("mimi", str(hub_folder))
    waves = noise(1, 1919, 1920, 1921, 30_000, 24_000, 0)
    together = codec.encode(waves)
    assert [len(codes) for codes in together] == [1, 1, 1, 2, 16, 13, 0]
    for codes, wave in zip(together, waves, strict=True):
        assert codes.dtype == np.uint16
        np.testing.assert_array_equal(codes, codec.encode([wave])[0])
    assert len(np.unique(together[4])) > 20, (
        "random codebooks must be used, or the comparison says nothing"
    )


def test_codes_are_those_of_the_librarys_own_batch(hub_folder: Path) -> None:
    codec = open_codec("mimi", str(hub_folder))
    assert isinstance(codec, Mimi)
    waves = noise(19_200, 19_200, 19_200)
    with torch.no_grad():
        batch = torch.from_numpy(np.stack(waves))[:, None]
        expected = codec.model.encode(batch, num_quantizers=6).audio_codes
    assert expected is not None
    assert len(expected.unique()) > 20
    np.testing.assert_array_equal(np.stack(codec.encode(waves)), expected.transpose(1, 2).numpy())


def test_fewer_codebooks_are_the_first_ones(hub_folder: Path) -> None:
    whole, coarse = (
        open_codec("mimi", str(hub_folder)),
        open_codec("mimi", str(hub_folder), num_codebooks=2),
    )
    wave = noise(9_000)[0]
    np.testing.assert_array_equal(coarse.encode([wave])[0], whole.encode([wave])[0][:, :2])
    assert coarse.decode(coarse.encode([wave])[0]).shape == (5 * 1920,)
    assert coarse.fingerprint != whole.fingerprint
    with pytest.raises(CodecError, match=r"has 6 codebooks, not 7; ask for 1\.\.6"):
        open_codec("mimi", str(hub_folder), num_codebooks=7)


def test_decode_takes_what_csm_can_say(hub_folder: Path) -> None:
    codec = open_codec("mimi", str(hub_folder))
    assert codec.decode(np.zeros((0, 6), dtype=np.uint16)).shape == (0,)
    codes = codec.encode(noise(5_000))[0]
    extra = codes.copy()
    extra[1, 3] = 66  # an id of CSM's tables without a sound
    assert np.isfinite(codec.decode(extra)).all()
    with pytest.raises(ValueError, match="67 is not below the codec's 67 ids"):
        codec.decode(np.full((2, 6), 67, dtype=np.uint16))
    with pytest.raises(ValueError, match="codebooks"):
        codec.decode(codes[:, :5])


def test_the_trainers_precision_changes_nothing(hub_folder: Path) -> None:
    codec = open_codec("mimi", str(hub_folder))
    wave = noise(20_000)[0]
    expected = codec.encode([wave])[0]
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(codec.encode([wave])[0], expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_weights_that_do_not_fit_are_refused(
    hub_folder: Path, original: Path, tmp_path: Path
) -> None:
    weights = load_file(hub_folder / "model.safetensors")
    (tmp_path / "config.json").write_text((hub_folder / "config.json").read_text())
    save_file(
        {k: v for k, v in weights.items() if "downsample" not in k},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CodecError, match=r"missing tensors \(1\): .*downsample"):
        open_codec("mimi", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(FACTS["hf_config"] | {"codebook_size": 32}))
    save_file(load_file(next(original.glob("tokenizer-*"))), tmp_path / "model.safetensors")
    with pytest.raises(CodecError, match="mismatched tensors"):
        open_codec("mimi", str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(CodecError, match="cannot be read as Mimi"):
        open_codec("mimi", str(tmp_path))


@pytest.mark.parametrize(
    ("source", "rule"),
    [("./nowhere", "no such file or folder"), ("mimi", "no such file or folder")],
)
def test_a_source_that_is_nothing(source: str, rule: str) -> None:
    with pytest.raises(CodecError, match=rule):
        open_codec("mimi", source)


def test_an_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match=r"neither model\.safetensors nor tokenizer"):
        open_codec("mimi", str(tmp_path))


def test_without_hub_the_ways_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CodecError, match=r"kyutai/mimi.*HF_HUB_OFFLINE.*hf auth login.*local folder.*melrvq"
    ):
        open_codec("mimi")


def test_facts_open_their_mimi_only(hub_folder: Path, original: Path) -> None:
    codec = open_codec("mimi", str(hub_folder), num_codebooks=3)
    facts = {
        "codec": "mimi",
        "codec_source": str(hub_folder),
        "codec_fingerprint": codec.fingerprint,
        "num_codebooks": 3,
    }
    assert from_facts(facts, None).num_codebooks == 3
    with pytest.raises(CodecError, match=r"is not the one that made the tokens.*pretokenise again"):
        from_facts({**facts, "codec_source": str(original)}, None)
