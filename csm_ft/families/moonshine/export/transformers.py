"""Moonshine for transformers: a folder that `MoonshineForConditionalGeneration` reads.

That library reads it back and must give the same logits and the same greedy text.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import MoonshineForConditionalGeneration

from csm_ft.atomic import write_whole
from csm_ft.errors import CheckError
from csm_ft.families.base import Exportable, Exporter, Proof
from csm_ft.families.model import save_tensors
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.family import HUB_NAME
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.size import (
    DEFAULT_TOKENS_PER_SEC,
    END,
    SAMPLE_RATE_HZ,
    START,
)
from csm_ft.families.moonshine.weights import load_model

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PROBED_SEC = (1.0, 10.0, 35.0)
_TOLERANCE = 2e-4  # on logits; float32 in another order of operations
_GREEDY_TOKENS = 20  # compared per recording
# The library's own default normalises each clip, which these models have never heard.
_PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "processor_class": "Wav2Vec2Processor",
    "sampling_rate": SAMPLE_RATE_HZ,
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "do_normalize": False,
    "return_attention_mask": True,
}
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "</s>",
    "processor_class": "Wav2Vec2Processor",
}


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
        dtype = str(self.dtype).removeprefix("torch.")
        _write_json(folder / "config.json", {**self.model.size.to_json(), "dtype": dtype})
        max_length = math.ceil(30 * self._max_tokens_per_sec())
        generation = {"bos_token_id": START, "decoder_start_token_id": START}
        generation |= {"eos_token_id": END, "pad_token_id": END, "max_length": max_length}
        _write_json(folder / "generation_config.json", generation)
        _write_json(folder / "preprocessor_config.json", _PREPROCESSOR)
        blob = self.source.store.asset("tokenizer") if self.source.store is not None else None
        if blob is not None:
            write_whole(folder / "tokenizer.json", blob)
            _write_json(folder / "tokenizer_config.json", _TOKENIZER)

    def read_back(self, folder: Path) -> Proof:
        """Compare logits and greedy tokens at 1, 10 and 35 s; CheckError if they are others."""
        try:
            theirs: Any = MoonshineForConditionalGeneration.from_pretrained(
                str(folder), dtype=torch.float32, local_files_only=True
            ).eval()
            found = [self._compare(theirs, seconds) for seconds in _PROBED_SEC]
        except (RuntimeError, KeyError, TypeError, AttributeError, OSError) as error:
            raise CheckError(
                f"the export cannot be read back by transformers ({error}); nothing was kept"
            ) from error
        if max(found) > _TOLERANCE:
            raise CheckError(
                f"transformers reads other weights: logits differ by {max(found):.2g}, more than"
                f" {_TOLERANCE:g}; nothing was kept"
            )
        lengths = ", ".join(f"{seconds:g}" for seconds in _PROBED_SEC)
        line = (
            f"read back by transformers: logits at {lengths} s differ by at most {max(found):.2g},"
            " the greedy tokens are the same"
        )
        return Proof("transformers", [line])

    def snippet(self) -> str:
        """Show how the library loads it."""
        return (
            "```python\n"
            "from transformers import pipeline\n\n"
            'recognise = pipeline("automatic-speech-recognition", "THIS_FOLDER")\n'
            'print(recognise("recording.wav")["text"])\n'
            "```"
        )

    def _max_tokens_per_sec(self) -> float:
        config = self.source.config
        if isinstance(config, MoonshineConfig):
            return config.max_tokens_per_sec
        return DEFAULT_TOKENS_PER_SEC

    @torch.no_grad()
    def _compare(self, theirs: Any, seconds: float) -> float:
        """Return the largest difference of logits; CheckError for other greedy tokens."""
        clip = self._probe(seconds)
        ours = transcribe(self.model, [clip], _GREEDY_TOKENS / seconds)[0].ids
        sound = torch.from_numpy(clip.astype(np.float32) / 32768)[None]
        # One more than the tokens: theirs begin with the start token.
        written = theirs.generate(
            input_values=sound, max_length=_GREEDY_TOKENS + 1, do_sample=False
        )
        their_ids = [token for token in written[0].tolist()[1:] if token != END]
        if their_ids != ours:
            raise CheckError(
                f"transformers writes {their_ids[:8]} where the run writes {ours[:8]} ({seconds:g}"
                " s); nothing was kept"
            )
        tokens = np.array([*ours, END], dtype=np.uint32)
        expected = self.model.logits(collate_clips([clip], [tokens]))
        inputs = torch.tensor([[START, *ours]])
        actual: Tensor = theirs(input_values=sound, decoder_input_ids=inputs).logits[0]
        return float((expected - actual).abs().max())

    def _probe(self, seconds: float) -> NDArray[np.int16]:
        """Return sound of that length: validation clips one after another, or noise."""
        wanted = round(seconds * SAMPLE_RATE_HZ)
        store = self.source.store
        if store is None or "val" not in store.splits:
            noise = np.random.default_rng(0).normal(scale=3000, size=wanted)
            return noise.clip(-32768, 32767).astype(np.int16)
        split = store.splits["val"]
        sound, row = split.array("samples", 0), 1
        while len(sound) < wanted:
            sound = np.concatenate([sound, split.array("samples", row % len(split))])
            row += 1
        return sound[:wanted]


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_whole(path, json.dumps(values, indent=2))
