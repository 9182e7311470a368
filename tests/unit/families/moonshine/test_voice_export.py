"""The modules behind the moonshine-voice graphs, against the model that is trained."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.encoder import TextTokenizer, fit_tokenizer
from csm_ft.families.moonshine.export.voice import streaming_config
from csm_ft.families.moonshine.export.voice_graphs import (
    Adapter,
    CrossKv,
    DecoderKv,
    Encoder,
    Frontend,
    FrontendState,
)
from csm_ft.families.moonshine.export.voice_runtime import heard, printable
from csm_ft.families.moonshine.export.voice_tokenizer import join, pieces_of, write_tokenizer
from csm_ft.families.moonshine.size import START
from csm_ft.families.moonshine.streaming import StreamingDecoder, StreamingEncoder, windows_of
from tests.unit.families.moonshine.test_streaming import SIZE, make_clips, make_model


@pytest.mark.parametrize("piece", [80, 97, 333, 512, 1280, 5000])
@torch.no_grad()
def test_frontend_is_the_same_for_any_pieces(piece: int) -> None:
    clips, tokens = make_clips((11123,))
    encoder = make_model().encoder
    assert isinstance(encoder, StreamingEncoder)
    expected = encoder.embedder(windows_of(collate_clips(clips, tokens)))
    frontend, state = Frontend(encoder.embedder), FrontendState.start(SIZE.encoder.dim)
    sound, frames = torch.from_numpy(clips[0].astype(np.float32) / 32768)[None], []
    for part in sound.split(piece, dim=1):
        new, *carried = frontend(part, *state)
        state = FrontendState(*carried)
        frames.append(new)
    torch.testing.assert_close(torch.cat(frames, dim=1), expected, atol=2e-5, rtol=0)
    assert state.frame_count.item() == 11123 // 80
    assert state.sample_len.item() == 11123 % 80


@torch.no_grad()
def test_chain_of_graphs_is_the_model() -> None:
    """Tokens first by two and then one by one, as the caches allow."""
    clips, tokens = make_clips((16000,))
    model = make_model().eval()
    batch = collate_clips(clips, tokens)
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, StreamingEncoder)
    assert isinstance(decoder, StreamingDecoder)
    encoded = Encoder(encoder)(encoder.embedder(windows_of(batch)))
    torch.testing.assert_close(encoded[0], encoder(batch), atol=2e-5, rtol=0)
    adapter = Adapter(decoder)
    memory = torch.cat(
        [
            adapter(encoded[:, :7], torch.tensor([0])),
            adapter(encoded[:, 7:], torch.tensor([7])),
        ],
        dim=1,
    )
    torch.testing.assert_close(memory[0], model.hear(batch)[0], atol=2e-5, rtol=0)
    keys, values = CrossKv(decoder)(memory)
    cache = torch.zeros(SIZE.decoder_layers, 1, SIZE.decoder.heads, 0, SIZE.decoder.head_dim)
    state, rows, step = (cache, cache), [], DecoderKv(model)
    for ids in batch.inputs.split([2] + [1] * (len(batch.inputs) - 2)):
        logits, *written = step(ids[None], *state, keys, values)
        state = (written[0], written[1])
        rows.append(logits[0])
    assert batch.inputs[0] == START
    torch.testing.assert_close(torch.cat(rows), model.logits(batch), atol=2e-5, rtol=0)


def test_states_are_allocated_by_the_config() -> None:
    found = streaming_config(SIZE)
    assert found["frontend_state_shapes"] == {
        "sample_buffer": [1, 79],
        "sample_len": [1],
        "conv1_buffer": [1, 60, 4],
        "conv2_buffer": [1, 120, 4],
        "frame_count": [1],
    }
    assert (found["depth"], found["nheads"], found["head_dim"]) == (2, 2, 24)
    assert found["total_lookahead"] == 5  # (16, 4) and (5, 3): three frames and two


def test_tokenizer_holds_the_bytes_of_every_token() -> None:
    tokenizer = fit_tokenizer(["Marie aime les pommes.", "Ça va ?"], 300)
    pieces = pieces_of(tokenizer)
    assert pieces[:4] == [b"<unk>", b"<s>", b"</s>", b"\x00"]
    for text in ("Marie aime les poires.", "Ça va ? 東京"):
        ids = tokenizer.encode(text)[:-1].tolist()
        assert join(pieces, ids) == tokenizer.decode(ids) == text
    blob, read = write_tokenizer(tokenizer), []
    while blob:
        read.append(blob[1 : 1 + blob[0]])
        blob = blob[1 + blob[0] :]
    assert read == pieces


def test_long_tokens_have_lengths_of_two_bytes() -> None:
    tokenizer = fit_tokenizer(["a"], 300)
    inner = Tokenizer.from_str(tokenizer.blob.decode())
    inner.add_tokens(["x" * 300])
    blob = write_tokenizer(TextTokenizer(inner.to_str().encode(), "long"))
    assert blob.endswith(bytes([300 % 128 + 128, 300 // 128]) + b"x" * 300)


def test_runtime_hears_whole_pieces() -> None:
    assert heard(16000) == 15360
    assert heard(2560) == 2560
    assert printable("a\ufffd\ufffdb") == printable("a?b") == "a?b"
