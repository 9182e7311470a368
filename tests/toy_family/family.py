"""A toy family, as unlike CSM as can be: stereo samples in, text out, one letter at a time.

It has no codec and no tokenizer: a clip keeps its raw 16 kHz samples [N, 2] and its text as bytes
[L]. The model hears 50 ms windows and predicts letters; spaces count half in the training loss.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from csm_ft.config.base import option
from csm_ft.config.generate import GenerateConfig
from csm_ft.config.train import TrainConfig
from csm_ft.data import audio
from csm_ft.data.examples import whole_clips
from csm_ft.data.split import ArrayKind
from csm_ft.errors import CheckError
from csm_ft.families.base import Family, Prompt, Sample, SamplingOptions, Term, Yardstick
from csm_ft.families.encoder import Encoder
from csm_ft.families.exporter import Exporter, Proof
from csm_ft.families.model import Batch, SpeechModel

RATE_HZ, WINDOW, END, SPACE = 16000, 800, 0, ord(" ")


class ToyConfig(TrainConfig):
    width: int = option(16, "Width of the model.", group="model size", gt=0)


class ToyGenerateConfig(GenerateConfig):
    sound: list[str] = option([], "Stereo files to transcribe.", group="prompts")


class ToyEncoder(Encoder):
    arrays = {"samples": ArrayKind("<i2", 2), "letters": ArrayKind("|u1")}
    sample_rate_hz, frame_sec, channels = RATE_HZ, 1 / RATE_HZ, "both"
    audio_fingerprint, text_fingerprint = "toy-samples-1", "toy-bytes-1"
    facts, assets = {"alphabet": "bytes"}, {}

    def encode_audio(self, waves):
        return [{"samples": (wave.T * 32767).astype(np.int16)} for wave in waves]

    def encode_text(self, row):
        return {"letters": np.frombuffer(row.text.encode() + bytes([END]), np.uint8)}

    def rejects(self, row, lengths):
        return "shorter than a window; drop the row" if lengths["samples"] < WINDOW else ""

    def decode(self, arrays):
        return None


@dataclass
class ToyBatch(Batch):
    sounds: Tensor  # [B, 2 * WINDOW], the mean over windows
    letters: Tensor  # [B, L], padded by -1


class ToyModel(SpeechModel):
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.ear = nn.Linear(2 * WINDOW, width)
        self.letters = nn.Embedding(256, width)
        self.memory = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 256)

    def forward(self, batch):
        logits = self.logits(batch.sounds, batch.letters)
        targets = batch.letters.clamp(min=0)
        nats = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        is_space, is_real = batch.letters == SPACE, batch.letters >= 0
        return {
            "letters": (nats * (is_real & ~is_space)).sum(1),
            "spaces": (nats * is_space).sum(1),
        }

    def logits(self, sounds, letters):
        heard = torch.tanh(self.ear(sounds))[:, None]  # [B, 1, D]
        before = nn.functional.pad(letters.clamp(min=0), (1, -1))  # a letter sees those before it
        hidden, _ = self.memory(self.letters(before) + heard)
        return self.head(hidden).float()

    @torch.no_grad()
    def sample(self, prompts, encoder, options):
        samples = []
        for prompt in prompts:
            sounds, text = mean_window(prompt.arrays["samples"])[None], []
            while len(text) < 40 and END not in text:
                text.append(int(self.logits(sounds, torch.tensor([[*text, 0]]))[0, -1].argmax()))
            answer = bytes(text).rstrip(bytes([END])).decode(errors="replace")
            samples.append(Sample(prompt, text=answer, is_complete=END in text))
        return samples


def mean_window(samples):
    num_whole = len(samples) // WINDOW
    windows = samples[: num_whole * WINDOW].reshape(num_whole, -1)
    return torch.from_numpy(windows.mean(0) / 32768).float()


class PlainExporter(Exporter):
    library, summary = "toy", "plain tensors"

    def write(self, folder: Path) -> None:
        self.model = ToyFamily().load_model(self.source.weights)
        save_file(self.model.state_dict(), folder / "toy.safetensors")

    def read_back(self, folder: Path) -> Proof:
        found, own = load_file(folder / "toy.safetensors"), self.model.state_dict()
        if not all(torch.equal(found[name], own[name]) for name in own):
            raise CheckError("toy.safetensors holds other weights")
        return Proof("safetensors", ["all tensors are equal"])

    def snippet(self) -> str:
        return "`load_file('THIS_FOLDER/toy.safetensors')`"


class ToyFamily(Family):
    name = "toy"
    generate_example = "--sound question.wav"
    train_config, generate_config = ToyConfig, ToyGenerateConfig
    yardstick = Yardstick(
        terms=(Term(1.0, {"letters": 1.0, "spaces": 1.0}),),
        unit="nats per letter",
        formula="all letters of the validation texts",
        metric_units={"val_errors": "share of wrong letters"},
    )
    exporters = {"plain": PlainExporter}

    def arrange(self, split, config, *, evaluate):
        return whole_clips(split, split.lengths("letters"))

    def open_encoder(self, source, device):
        return ToyEncoder()

    def sample_prompts(self, config, store, encoder):
        split = store.splits["val"]
        rows = range(min(2, len(split)))
        prompts = [Prompt(split.ids[i], split.clip(i).text, arrays=split.arrays(i)) for i in rows]
        return prompts, SamplingOptions()

    def generate_prompts(self, config, record, encoder):
        prompts = []
        for path in map(Path, config.sound):
            wave = audio.load(path, sample_rate_hz=RATE_HZ, channel="both")
            (arrays,) = encoder.encode_audio([wave])
            prompts.append(Prompt(audio.digest(path)[:12], "", arrays=arrays))
        return prompts, SamplingOptions()

    def empty_model(self, config, store):
        with torch.device("meta"):
            return ToyModel(config.width)

    def load_weights(self, model, config):
        model.to_empty(device="cpu")
        if not config.train_from_scratch:
            base = self.load_model(config.model_name_or_checkpoint_path)
            model.load_state_dict(base.state_dict())
            return
        generator = torch.Generator().manual_seed(config.seed)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1, generator=generator)

    def load_model(self, name):
        model = ToyModel(json.loads((Path(name) / "config.json").read_text())["width"])
        model.load_state_dict(load_file(Path(name) / "model.safetensors"))
        return model

    def collate(self, examples, indices, config, *, draw):
        rows = [next(examples.of(index)).row for index in indices]
        sounds = [mean_window(examples.split.array("samples", row)) for row in rows]
        letters = [torch.tensor(examples.split.array("letters", row).tolist()) for row in rows]
        spaces = torch.stack([(text == SPACE).sum() for text in letters])
        lengths = torch.tensor([len(text) for text in letters])
        return ToyBatch(
            counts={"letters": lengths - spaces, "spaces": spaces},
            audio_sec=float(examples.split.durations_sec[rows].sum()),
            num_positions=int(lengths.sum()),
            num_padded=len(rows) * int(lengths.max()),
            sounds=torch.stack(sounds),
            letters=nn.utils.rnn.pad_sequence(letters, batch_first=True, padding_value=-1),
        )

    def loss_terms(self, config):
        return (Term(1.0, {"letters": 1.0, "spaces": 0.5}),)

    def score(self, model, examples, config):
        batch = self.collate(examples, range(len(examples)), config, draw=None)
        is_wrong = model.logits(batch.sounds, batch.letters).argmax(-1) != batch.letters
        return {"val_errors": float(is_wrong[batch.letters >= 0].float().mean())}

    def checkpoint_config(self, model):
        return {"width": model.width}
