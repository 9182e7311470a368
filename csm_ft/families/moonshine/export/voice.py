"""A streaming Moonshine for the moonshine-voice runtime: five graphs, its config and tokenizer.

The graphs are written as .onnx, for its quantiser, and as .ort, which the runtime loads.
onnxruntime must compute what the run computes, graph by graph, and the runtime must write the same
text.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_ft.atomic import write_whole
from csm_ft.errors import CheckError, ConfigError, first_line
from csm_ft.families.exporter import Exportable, Exporter, Proof
from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.encoder import MoonshineEncoder
from csm_ft.families.moonshine.export import voice_runtime
from csm_ft.families.moonshine.export.files import (
    GREEDY_TOKENS,
    PROBED_SEC,
    level_comment,
    max_tokens_per_sec,
    probe,
    write_json,
)
from csm_ft.families.moonshine.export.graph_file import check_can_write, write_graph
from csm_ft.families.moonshine.export.voice_graphs import (
    CrossKv,
    FrontendState,
    graphs_of,
)
from csm_ft.families.moonshine.export.voice_tokenizer import write_tokenizer
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.size import END, START
from csm_ft.families.moonshine.streaming import (
    StreamingDecoder,
    StreamingEncoder,
    StreamingModel,
    windows_of,
)
from csm_ft.families.moonshine.streaming_size import WINDOW_SAMPLES, StreamingSize
from csm_ft.families.moonshine.weights import load_model

GRAPHS = ("frontend", "encoder", "adapter", "cross_kv", "decoder_kv")
_TOLERANCE = 5e-4  # float32 by other kernels
_CROSS = {"k_cross": "out_k_cross", "v_cross": "out_v_cross"}


class VoiceExporter(Exporter):
    """Five graphs in fp32, streaming_config.json and tokenizer.bin."""

    library = "moonshine-voice"
    summary = "Moonshine speech recognition, graphs for the moonshine-voice runtime"
    tags = ("moonshine", "speech-recognition", "streaming", "onnx")
    pipeline_tag = "automatic-speech-recognition"

    def __init__(self, source: Exportable) -> None:
        super().__init__(source)
        check_can_write(source, "moonshine-voice")
        if source.store is None:
            raise ConfigError(
                "--format moonshine-voice needs the tokenizer, which is in the token file of the"
                " run; export the run, not its weights alone"
            )
        self.encoder = MoonshineEncoder.from_store(source.store)

    def write(self, folder: Path) -> None:
        """Write the graphs, the config and the tokenizer."""
        model = load_model(self.source.weights).eval()
        if not isinstance(model, StreamingModel):
            raise ConfigError(
                "--format moonshine-voice is for the streaming models; of the first generation"
                " export --format onnx"
            )
        self.model = model
        for name, graph in graphs_of(model).items():
            write_graph(graph, folder / f"{name}.onnx")
        _pass_through(folder / "decoder_kv.onnx")
        for name in GRAPHS:
            _convert(folder / f"{name}.onnx")
        assert isinstance(model.size, StreamingSize)
        write_json(folder / "streaming_config.json", streaming_config(model.size))
        write_whole(folder / "tokenizer.bin", write_tokenizer(self.encoder.tokenizer))

    def read_back(self, folder: Path) -> Proof:
        """Compare every graph at 1, 10 and 35 s, and the runtime's text; CheckError if others."""
        graphs = Graphs(folder)
        found: dict[str, float] = dict.fromkeys(GRAPHS, 0.0)
        for seconds in PROBED_SEC:
            for name, difference in self._compare(graphs, seconds).items():
                found[name] = max(found[name], difference)
        worst = max(found.values())
        if worst > _TOLERANCE:
            raise CheckError(
                f"onnxruntime computes another model: {found} are the differences, more than"
                f" {_TOLERANCE:g}; nothing was kept"
            )
        lengths = ", ".join(f"{seconds:g}" for seconds in PROBED_SEC)
        each = ", ".join(f"{name} {difference:.2g}" for name, difference in found.items())
        lines = [f"computed by onnxruntime at {lengths} s, differences of at most: {each}"]
        if not voice_runtime.is_installed():
            return Proof("onnxruntime", lines, voice_runtime.NOT_CHECKED)
        for seconds in PROBED_SEC:
            self._compare_text(folder, seconds)
        lines.append(f"read back by moonshine-voice: the same text at {lengths} s")
        return Proof("moonshine-voice", lines)

    def snippet(self) -> str:
        """Show how the runtime loads it."""
        return (
            f"```python\n{level_comment(self.source)}"
            "from moonshine_voice import ModelArch, Transcriber, load_wav_file\n\n"
            'transcriber = Transcriber("THIS_FOLDER", ModelArch.TINY_STREAMING)  # of any size\n'
            'sound, rate_hz = load_wav_file("recording.wav")\n'
            "for line in transcriber.transcribe_without_streaming(sound, rate_hz).lines:\n"
            "    print(line.text)\n"
            "```"
        )

    @torch.no_grad()
    def _compare(self, graphs: "Graphs", seconds: float) -> Mapping[str, float]:
        """Return the largest difference of each graph's outputs on that much sound."""
        clip, model = probe(self.source, seconds), self.model
        ours = transcribe(model, [clip], GREEDY_TOKENS / seconds)[0].ids
        batch = collate_clips([clip], [np.array([*ours, END], dtype=np.uint32)])
        encoder, decoder = model.encoder, model.decoder
        assert isinstance(encoder, StreamingEncoder)
        assert isinstance(decoder, StreamingDecoder)
        features = graphs.features(clip)
        encoded, memory = graphs.hear(features)
        keys, values = graphs.cross(memory)
        theirs = CrossKv(decoder)(torch.from_numpy(memory))
        return {
            "frontend": _difference(encoder.embedder(windows_of(batch)), features),
            "encoder": _difference(encoder(batch)[None], encoded),
            "adapter": _difference(model.hear(batch)[0][None], memory),
            "cross_kv": max(_difference(theirs[0], keys), _difference(theirs[1], values)),
            "decoder_kv": _difference(
                model.logits(batch), graphs.logits([START, *ours], keys, values)
            ),
        }

    def _compare_text(self, folder: Path, seconds: float) -> None:
        rate = max_tokens_per_sec(self.source)
        clip = probe(self.source, seconds)
        clip = clip[: voice_runtime.heard(len(clip))]
        ids = transcribe(self.model, [clip], rate)[0].ids
        ours = self.encoder.tokenizer.decode(ids)
        theirs = voice_runtime.text_of(folder, clip, rate)
        if voice_runtime.printable(ours) != voice_runtime.printable(theirs):
            raise CheckError(
                f"moonshine-voice writes {theirs[:60]!r} where the run writes {ours[:60]!r}"
                f" ({seconds:g} s); nothing was kept"
            )


class Graphs:
    """The .ort files as onnxruntime reads them; sound in pieces, tokens one by one."""

    def __init__(self, folder: Path) -> None:
        onnxruntime: Any = import_module("onnxruntime")
        try:
            self._sessions: dict[str, Any] = {
                name: onnxruntime.InferenceSession(str(folder / f"{name}.ort")) for name in GRAPHS
            }
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckError(
                f"the export cannot be read by onnxruntime ({first_line(error)}); nothing was kept"
            ) from error

    def run(self, graph: str, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the outputs of one graph, in its order."""
        return self._sessions[graph].run(None, inputs)

    def features(
        self, clip: NDArray[np.int16], samples: int = voice_runtime.PIECE_SAMPLES
    ) -> NDArray[np.float32]:
        """Return the frames of a clip that arrives in pieces of so many samples, [1, F, E]."""
        sound = clip.astype(np.float32)[None] / np.float32(32768)
        shapes = {i.name: i.shape for i in self._sessions["frontend"].get_inputs()}
        state = [part.numpy() for part in FrontendState.start(shapes["conv1_buffer"][1])]
        frames = []
        for start in range(0, len(clip), samples):
            piece = sound[:, start : start + samples]
            carried = dict(zip(FrontendState._fields, state, strict=True))
            new, *state = self.run("frontend", audio_chunk=piece, **carried)
            frames.append(new)
        return np.concatenate(frames, axis=1)

    def hear(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Return the encoder's states [1, F, E], and what the decoder attends to [1, F, D]."""
        (encoded,) = self.run("encoder", features=features)
        offset = np.zeros(1, np.int64)
        return encoded, self.run("adapter", encoded=encoded, pos_offset=offset)[0]

    def cross(self, memory: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Return keys and values of the recording, [L, 1, H, F, D / H] each."""
        keys, values = self.run("cross_kv", memory=memory)
        return keys, values

    def logits(
        self, ids: list[int], keys: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the logits after each token [T, V], one step at a time."""
        written = np.zeros((*keys.shape[:3], 0, keys.shape[4]), np.float32)
        state, rows = (written, written), []
        for token in ids:
            logits, *rest = self.run(
                "decoder_kv",
                token=np.array([[token]]),
                k_self=state[0],
                v_self=state[1],
                out_k_cross=keys,
                out_v_cross=values,
            )
            state = rest[0], rest[1]
            rows.append(logits[0, 0])
        return np.stack(rows)


def streaming_config(size: StreamingSize) -> dict[str, Any]:
    """Return streaming_config.json: the shapes that the runtime allocates its states by."""
    state = FrontendState.start(size.encoder.dim)
    return {
        "encoder_dim": size.encoder.dim,
        "decoder_dim": size.decoder.dim,
        "depth": size.decoder_layers,
        "nheads": size.decoder.heads,
        "head_dim": size.decoder.head_dim,
        "vocab_size": size.vocab_size,
        "bos_id": START,
        "eos_id": END,
        "frame_len": WINDOW_SAMPLES,
        "total_lookahead": size.lookahead_frames,
        "d_model_frontend": size.encoder.dim,
        "c1": 2 * size.encoder.dim,
        "c2": size.encoder.dim,
        "frontend_state_shapes": {name: list(part.shape) for name, part in state._asdict().items()},
    }


def _pass_through(path: Path) -> None:
    """Make the recording's keys and values outputs under their own names, as the runtime binds."""
    onnx: Any = import_module("onnx")
    model = onnx.load(str(path))
    for node in model.graph.node:
        node.input[:] = [_CROSS.get(name, name) for name in node.input]
    for value in model.graph.input:
        if value.name in _CROSS:
            value.name = _CROSS[value.name]
            model.graph.output.append(value)
    onnx.save(model, str(path))


def _convert(path: Path) -> None:
    """Write the .ort file of an .onnx file, with the optimisations that hold on any processor."""
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_suffix(".ort"))
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3  # not its remark that fused operators are not standard
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _difference(ours: Tensor, theirs: NDArray[np.float32]) -> float:
    if tuple(ours.shape) != theirs.shape:
        raise CheckError(
            f"onnxruntime returns {theirs.shape} where the run has {tuple(ours.shape)}; nothing was"
            " kept"
        )
    return float((ours - torch.from_numpy(theirs)).abs().max())
