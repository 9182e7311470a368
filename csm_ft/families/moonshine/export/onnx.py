"""Moonshine as ONNX graphs: encoder and decoder, for sound and texts of any length.

They are written by torch's own exporter from the model that transformers builds, whose operations
are those of the published graphs. onnxruntime reads them back and must write the same text.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

from csm_ft.errors import CheckError, ConfigError
from csm_ft.families.exporter import Exportable, Exporter, Proof
from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.export.files import (
    GREEDY_TOKENS,
    PROBED_SEC,
    level_comment,
    probe,
    write_configs,
)
from csm_ft.families.moonshine.export.graph_file import Graph, check_can_write, write_graph
from csm_ft.families.moonshine.family import HUB_NAME
from csm_ft.families.moonshine.model import MoonshineModel
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.size import END, MIN_SAMPLES, START
from csm_ft.families.moonshine.streaming import StreamingModel
from csm_ft.families.moonshine.weights import load_model

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
_TOLERANCE = 5e-4  # on logits; float32 by other kernels
_MOST_SAMPLES, _MOST_TOKENS, _MOST_FRAMES = 2**24, 2**16, 2**16  # of the exported shapes


class OnnxExporter(Exporter):
    """Two graphs in fp32, with the configs and the tokenizer beside them."""

    library = "onnxruntime"
    summary = "Moonshine speech recognition, ONNX graphs"
    tags = ("moonshine", "speech-recognition", "onnx")
    pipeline_tag = "automatic-speech-recognition"

    def __init__(self, source: Exportable) -> None:
        super().__init__(source)
        check_can_write(source, "onnx")

    @property
    def licence(self) -> str:
        """Licence of the export, where that of its base says so; "" = not chosen."""
        return "mit" if self.base == HUB_NAME else ""

    def write(self, folder: Path) -> None:
        """Write both graphs, the configs, and the tokenizer."""
        self.model = load_model(self.source.weights).eval()
        if isinstance(self.model, StreamingModel):
            raise ConfigError(
                "--format onnx is for the first generation; of a streaming model export"
                " --format moonshine-voice or --format transformers"
            )
        theirs = _in_transformers(self.model)
        encoder = Graph(
            _Encoder(theirs),
            {"input_values": torch.zeros(1, 16000)},
            {"input_values": {1: Dim("num_samples", min=MIN_SAMPLES, max=_MOST_SAMPLES)}},
            ["last_hidden_state"],
        )
        write_graph(encoder, folder / ENCODER)
        tokens = {"input_ids": torch.tensor([[START, END, END]])}
        width = self.model.decoder.embed_tokens.embedding_dim
        states = {"encoder_hidden_states": torch.zeros(1, 40, width)}
        decoder = Graph(
            _Decoder(theirs),
            {**tokens, **states},
            {
                "input_ids": {1: Dim("num_tokens", min=1, max=_MOST_TOKENS)},
                "encoder_hidden_states": {1: Dim("num_frames", min=1, max=_MOST_FRAMES)},
            },
            ["logits"],
        )
        write_graph(decoder, folder / DECODER)
        write_configs(folder, self.source, self.model.size.to_json())

    def read_back(self, folder: Path) -> Proof:
        """Compare logits and greedy tokens at 1, 10 and 35 s; CheckError if they are others."""
        try:
            graphs = Graphs(folder)
            found = [self._compare(graphs, seconds) for seconds in PROBED_SEC]
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckError(
                f"the export cannot be read back by onnxruntime ({error}); nothing was kept"
            ) from error
        if max(found) > _TOLERANCE:
            raise CheckError(
                f"onnxruntime computes another model: logits differ by {max(found):.2g}, more than"
                f" {_TOLERANCE:g}; nothing was kept"
            )
        lengths = ", ".join(f"{seconds:g}" for seconds in PROBED_SEC)
        line = (
            f"read back by onnxruntime: logits at {lengths} s differ by at most {max(found):.2g},"
            " the greedy tokens are the same"
        )
        return Proof("onnxruntime", [line])

    def snippet(self) -> str:
        """Show how onnxruntime runs it."""
        return (
            f"```python\n{level_comment(self.source)}"
            "import numpy as np, onnxruntime, soundfile, tokenizers\n\n"
            f'encoder = onnxruntime.InferenceSession("THIS_FOLDER/{ENCODER}")\n'
            f'decoder = onnxruntime.InferenceSession("THIS_FOLDER/{DECODER}")\n'
            'sound, _ = soundfile.read("recording.wav", dtype="float32")  # 16 kHz, mono\n'
            '(states,) = encoder.run(None, {"input_values": sound[None]})\n'
            f"ids = [{START}]\n"
            f"while ids[-1] != {END} and len(ids) < 200:\n"
            '    inputs = {"input_ids": np.array([ids]), "encoder_hidden_states": states}\n'
            "    ids.append(int(decoder.run(None, inputs)[0][0, -1].argmax()))\n"
            'tokenizer = tokenizers.Tokenizer.from_file("THIS_FOLDER/tokenizer.json")\n'
            "print(tokenizer.decode(ids))\n"
            "```"
        )

    @torch.no_grad()
    def _compare(self, graphs: "Graphs", seconds: float) -> float:
        """Return the largest difference of logits; CheckError for other greedy tokens."""
        clip = probe(self.source, seconds)
        ours = transcribe(self.model, [clip], GREEDY_TOKENS / seconds)[0].ids
        states = graphs.hear(clip)
        theirs = graphs.write(states, GREEDY_TOKENS)
        if theirs != ours:
            raise CheckError(
                f"onnxruntime writes {theirs[:8]} where the run writes {ours[:8]} ({seconds:g} s);"
                " nothing was kept"
            )
        tokens = np.array([*ours, END], dtype=np.uint32)
        expected = self.model.logits(collate_clips([clip], [tokens])).numpy()
        return float(np.abs(expected - graphs.logits([START, *ours], states)).max())


class Graphs:
    """An export as onnxruntime reads it. Shapes: F frames, D width, L tokens, V vocabulary."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        open_ = onnxruntime.InferenceSession
        self._encoder: Any = open_(str(folder / ENCODER))
        self._decoder: Any = open_(str(folder / DECODER))

    def hear(self, clip: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return the encoder's states, [1, F, D]."""
        sound = clip.astype(np.float32)[None] / np.float32(32768)
        return self._encoder.run(None, {"input_values": sound})[0]

    def logits(self, ids: list[int], states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits after each token, [L, V]."""
        inputs = {"input_ids": np.array([ids]), "encoder_hidden_states": states}
        return self._decoder.run(None, inputs)[0][0]

    def write(self, states: NDArray[np.float32], most: int) -> list[int]:
        """Return at most so many greedy tokens, without the end token."""
        ids = [START]
        while len(ids) <= most:
            token = int(self.logits(ids, states)[-1].argmax())
            if token == END:
                break
            ids.append(token)
        return ids[1:]


class _Encoder(nn.Module):
    """Sound [1, N] -> states [1, F, D]."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.encoder = theirs.model.encoder

    def forward(self, input_values: Tensor) -> Tensor:
        return self.encoder(input_values).last_hidden_state


class _Decoder(nn.Module):
    """Tokens [1, L] and states [1, F, D] -> logits [1, L, V]."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.decoder, self.head = theirs.model.decoder, theirs.proj_out

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        states = self.decoder(
            input_ids=input_ids, encoder_hidden_states=encoder_hidden_states, use_cache=False
        )
        return self.head(states.last_hidden_state)


def _in_transformers(model: MoonshineModel) -> Any:
    values = {name: v for name, v in model.size.to_json().items() if name != "architectures"}
    theirs: Any = MoonshineForConditionalGeneration(MoonshineConfig(**values))
    theirs.load_state_dict(model.state_dict(), strict=False)
    theirs.tie_weights()
    return theirs.eval()
