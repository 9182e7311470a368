"""Moonshine for transformers: a folder that `MoonshineForConditionalGeneration` reads.

That library reads it back and must give the same logits and the same greedy text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    MoonshineForConditionalGeneration,
    MoonshineStreamingForConditionalGeneration,
)

from csm_ft.errors import CheckError
from csm_ft.families.exporter import Exportable, Exporter, Proof
from csm_ft.families.model import save_tensors
from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.export.files import (
    GREEDY_TOKENS,
    PROBED_SEC,
    level_comment,
    probe,
    write_configs,
)
from csm_ft.families.moonshine.family import HUB_NAME
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.size import END, START
from csm_ft.families.moonshine.streaming import StreamingModel
from csm_ft.families.moonshine.weights import load_model

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_TOLERANCE = 2e-4  # on logits; float32 in another order of operations


class TransformersExporter(Exporter):
    """Weights, configs and tokenizer as the library's processor and pipeline read them."""

    library = "transformers"
    summary = "Moonshine speech recognition, weights for transformers"
    tags: Sequence[str] = ("moonshine", "speech-recognition")
    pipeline_tag = "automatic-speech-recognition"

    def __init__(self, source: Exportable) -> None:
        super().__init__(source)
        self.dtype = _DTYPES[source.dtype]

    @property
    def licence(self) -> str:
        """Licence of the export, where that of its base says so; "" = not chosen."""
        return "mit" if self.base == HUB_NAME else ""

    def write(self, folder: Path) -> None:
        """Write config, weights, generation and preprocessor configs, and the tokenizer."""
        self.model = load_model(self.source.weights).eval()
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(self.dtype).float()
        tensors = {name: t.to(self.dtype) for name, t in self.model.state_dict().items()}
        save_tensors(tensors, folder / "model.safetensors", format="pt")
        streams = isinstance(self.model, StreamingModel)
        dtype = str(self.dtype).removeprefix("torch.")
        config = {**self.model.size.to_json(), "dtype": dtype}
        write_configs(folder, self.source, config, streams=streams)

    def read_back(self, folder: Path) -> Proof:
        """Compare logits and greedy tokens at 1, 10 and 35 s; CheckError if they are others."""
        try:
            theirs: Any = (
                self._their_class()
                .from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
                .eval()
            )
            found = [self._compare(theirs, seconds) for seconds in PROBED_SEC]
        except (RuntimeError, KeyError, TypeError, AttributeError, OSError) as error:
            raise CheckError(
                f"the export cannot be read back by transformers ({error}); nothing was kept"
            ) from error
        if max(found) > _TOLERANCE:
            raise CheckError(
                f"transformers reads other weights: logits differ by {max(found):.2g}, more than"
                f" {_TOLERANCE:g}; nothing was kept"
            )
        lengths = ", ".join(f"{seconds:g}" for seconds in PROBED_SEC)
        line = (
            f"read back by transformers: logits at {lengths} s differ by at most {max(found):.2g},"
            " the greedy tokens are the same"
        )
        return Proof("transformers", [line])

    def snippet(self) -> str:
        """Show how the library loads it."""
        return (
            f"```python\n{level_comment(self.source)}"
            "from transformers import pipeline\n\n"
            'recognise = pipeline("automatic-speech-recognition", "THIS_FOLDER")\n'
            'print(recognise("recording.wav")["text"])\n'
            "```"
        )

    def _their_class(self) -> Any:
        if isinstance(self.model, StreamingModel):
            return MoonshineStreamingForConditionalGeneration
        return MoonshineForConditionalGeneration

    @torch.no_grad()
    def _compare(self, theirs: Any, seconds: float) -> float:
        """Return the largest difference of logits; CheckError for other greedy tokens."""
        clip = probe(self.source, seconds)
        ours = transcribe(self.model, [clip], GREEDY_TOKENS / seconds)[0].ids
        sound = torch.from_numpy(clip.astype(np.float32) / 32768)[None]
        # Without a mask, a streaming model of the library has no windows.
        heard = {"input_values": sound, "attention_mask": torch.ones_like(sound, dtype=torch.int64)}
        # One more than the tokens: theirs begin with the start token.
        written = theirs.generate(**heard, max_length=GREEDY_TOKENS + 1, do_sample=False)
        their_ids = [token for token in written[0].tolist()[1:] if token != END]
        if their_ids != ours:
            raise CheckError(
                f"transformers writes {their_ids[:8]} where the run writes {ours[:8]} ({seconds:g}"
                " s); nothing was kept"
            )
        tokens = np.array([*ours, END], dtype=np.uint32)
        expected = self.model.logits(collate_clips([clip], [tokens]))
        inputs = torch.tensor([[START, *ours]])
        actual: Tensor = theirs(**heard, decoder_input_ids=inputs).logits[0]
        return float((expected - actual).abs().max())
