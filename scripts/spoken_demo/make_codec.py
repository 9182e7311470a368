"""Fit the codec and text tokenizer of the spoken demo, without its new voice.

    python scripts/spoken_demo/make_codec.py --corpus DIR --people FOLDER... --output FOLDER

`--people` adds five minutes of each of these folders of recordings (.g722, .wav), so that the codec
knows real voices, too: Debian's asterisk-core-sounds-{fr,it,ru}-g722, and LJSpeech.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from make_speech import LEVEL, dice
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from voices import SAMPLE_RATE_HZ, Wave, read_g722

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from csm_ft.codecs import melrvq  # noqa: E402
from csm_ft.families.csm.encoder import (  # noqa: E402
    BOS,
    EOS,
    TextTokenizer,
)
from csm_ft.families.template import DEFAULT_TEMPLATE  # noqa: E402

NUM_CODEBOOKS, CODEBOOK_IDS = 8, 256
SMOOTH_BANDS, SMOOTH_COLUMNS = 20, 3  # cosines over the 80 bands and the 4 columns of a frame
KMEANS_STEPS = 20
PEOPLE_SEC = 300  # of each folder of recordings
TEXT_VOCAB_SIZE = 1536  # most words of the corpus are one token: little to learn in little time
# How Llama 3 splits text before byte-level BPE: words with the space before them, runs of at most
# three digits, punctuation.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def main() -> int:
    """Fit the codec, train the tokenizer, and print their results on the validation clips."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder made by make_demo_speech.py --corpus"
    )
    parser.add_argument("--people", type=Path, nargs="*", default=[], help="folders of recordings")
    parser.add_argument(
        "--n_clips", type=int, default=300, help="clips of each voice to fit on (default 300)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    train, val = (read_rows(arguments.corpus / f"{split}.jsonl") for split in ("train", "val"))

    waves: list[Wave] = []
    for speaker in sorted({row["speaker"] for row in train}):
        own = [row for row in train if row["speaker"] == speaker]
        waves += read_waves(arguments.corpus, own[: arguments.n_clips])
    for folder in arguments.people:
        waves += read_people(folder)
    minutes = sum(map(len, waves)) / SAMPLE_RATE_HZ / 60
    print(f"fitting the codec on {len(waves)} clips, {minutes:.1f} min", flush=True)
    codec = fit(waves)
    codec_file = arguments.output / "codec.safetensors"
    codec_file.write_bytes(codec.to_bytes())
    errors = " ".join(f"{error:.3f}" for error in codec.errors(read_waves(arguments.corpus, val)))
    size = f"{codec_file.stat().st_size / 1e6:.2f} MB"
    what = "share lost after 1, 2, ... codebooks on other sentences"
    print(f"{codec_file.name}: {size}; {what}: {errors}")

    blob = train_tokenizer([DEFAULT_TEMPLATE.format(**row) for row in train])
    (arguments.output / "tokenizer.json").write_bytes(blob)
    tokenizer = TextTokenizer(blob, "trained")
    lengths = [len(tokenizer.encode(DEFAULT_TEMPLATE.format(**row))) for row in val]
    mean = np.mean(lengths)
    print(f"tokenizer.json: {tokenizer.vocab_size} ids, {mean:.1f} tokens a clip")
    return 0


def fit(waves: Sequence[Wave]) -> melrvq.MelRVQ:
    """Fit a codec whose centroids are smooth over bands and columns.

    As melrvq.fit, in fp32 and from random frames, but in the subspace of the first cosines: it
    holds the shape of the spectrum, which makes the words, and leaves out most of the harmonics,
    which would use up the codebooks. Centroids in a subspace are chosen by it alone, so the codec
    itself does not change.
    """
    torch.set_num_threads(1)  # more would sum in another order
    columns = np.concatenate([melrvq._log_mel(wave) for wave in waves])
    mean = columns.mean(0).astype(np.float32)
    scale = np.maximum(columns.std(0), 0.01).astype(np.float32)
    frames = melrvq._frames(columns, mean, scale)
    residual = torch.tensor(frames, dtype=torch.float32)
    basis = smooth_basis()
    generator = torch.Generator().manual_seed(0)
    codebooks: list[np.ndarray] = []
    for _ in range(NUM_CODEBOOKS):
        # Subtract the rounded centroids, as encoding does.
        centroids = (kmeans(residual @ basis.T, CODEBOOK_IDS - 1, generator) @ basis).half()
        codebooks.append(centroids.numpy())
        residual = residual - centroids.float()[nearest(residual, centroids.float())]
    return melrvq.MelRVQ(mean, scale, np.stack(codebooks), f"fitted on {len(waves)} clips")


def smooth_basis() -> torch.Tensor:
    """Return an orthonormal basis of smooth frames: products of cosines (DCT-II), [60, 320]."""
    columns = cosines(melrvq.COLUMNS_PER_FRAME, SMOOTH_COLUMNS)
    basis = np.kron(columns, cosines(melrvq.NUM_BANDS, SMOOTH_BANDS))
    return torch.tensor(basis, dtype=torch.float32)


def cosines(size: int, count: int) -> np.ndarray:
    """Return the first `count` rows of the orthonormal DCT-II of `size` numbers."""
    waves = np.cos(np.pi * np.outer(np.arange(count), np.arange(size) + 0.5) / size)
    return waves / np.linalg.norm(waves, axis=1, keepdims=True)


def kmeans(points: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return the centroids of Lloyd's algorithm, [count, D]; an empty one restarts at a point."""
    centroids = points[torch.randperm(len(points), generator=generator)[:count]].clone()
    for _ in range(KMEANS_STEPS):
        chosen = nearest(points, centroids)
        sizes = torch.bincount(chosen, minlength=count)
        sums = torch.zeros_like(centroids).index_add_(0, chosen, points)
        restarts = points[torch.randint(len(points), (count,), generator=generator)]
        means = sums / sizes.clamp(min=1)[:, None]
        centroids = torch.where(sizes[:, None] > 0, means, restarts)
    return centroids


def nearest(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the index of the centroid nearest to each point."""
    return ((centroids**2).sum(1) - 2 * points @ centroids.T).argmin(1)


def read_people(folder: Path) -> list[Wave]:
    """Read five minutes of a folder's recordings of 1 to 10 s, at the corpus' level."""
    paths = sorted([*folder.rglob("*.g722"), *folder.rglob("*.wav")])
    dice(folder.name).shuffle(paths)
    waves: list[Wave] = []
    for path in paths:
        if path.suffix == ".g722":
            wave = read_g722(path)
        else:
            wave, rate_hz = soundfile.read(path, dtype="float32")
            wave = soxr.resample(wave, rate_hz, SAMPLE_RATE_HZ)
        level = float(np.sqrt(np.mean(wave**2))) if len(wave) else 0.0
        if SAMPLE_RATE_HZ < len(wave) < 10 * SAMPLE_RATE_HZ and level > 0.005:
            waves.append(wave * (LEVEL / level))
        if sum(map(len, waves)) > PEOPLE_SEC * SAMPLE_RATE_HZ:
            break
    return waves


def train_tokenizer(texts: Sequence[str]) -> bytes:
    """Return a tokenizer.json like Llama 3's: byte-level BPE with BOS and EOS.

    Unlike it, a word is one token wherever it stands, at the start of a sentence, too.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    space_after_tag = normalizers.Replace(Regex(r"\](?=\w)"), "] ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), space_after_tag])
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str(pretty=True).encode("utf-8")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read metadata of the corpus: path, text, speaker."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_waves(folder: Path, rows: Sequence[dict[str, str]]) -> list[np.ndarray]:
    """Read the corpus' audio, 16 kHz mono."""
    return [soundfile.read(folder / row["path"], dtype="float32")[0] for row in rows]


if __name__ == "__main__":
    sys.exit(main())
