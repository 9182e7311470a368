"""MelRVQ, the embedded codec: small, fitted in seconds, with codes of the same layout as Mimi's.

A frame of 80 ms is four columns of 80 log-mel bands, 320 numbers, quantised by K codebooks in
residual order: codebook 0 is the coarsest, and each further one quantises the error of those before
it. Griffin-Lim turns the decoded frames into a wave. Id 0 of every codebook is reserved, because
the models read an all-zero frame as end of speech.

Shapes: N samples, C columns (20 ms), T frames (4 columns), K codebooks, M mel bands, F frequency
bins.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from threadpoolctl import threadpool_limits

from csm_ft.codecs.base import Codes, Wave
from csm_ft.errors import CodecError

Array = NDArray[np.float64]

SAMPLE_RATE_HZ = 16000
HOP_SAMPLES = 320  # 20 ms
COLUMNS_PER_FRAME = 4
FRAME_SAMPLES = HOP_SAMPLES * COLUMNS_PER_FRAME
WINDOW_SAMPLES = 1024  # 64 ms: neighbours share 69 %, so that Griffin-Lim finds a phase
OVERHANG_SAMPLES = (WINDOW_SAMPLES - HOP_SAMPLES) // 2  # on either side of a window's 20 ms
NUM_BANDS = 80
FLOOR = 0.1  # mel amplitude (a sine of -68 dB); below it is silence, so noise uses up no centroids
GRIFFIN_LIM_STEPS = 32
GRIFFIN_LIM_MOMENTUM = 0.99
CONSTANTS = {
    "format": "csm-ft melrvq 1",
    "sample_rate_hz": SAMPLE_RATE_HZ,
    "hop_samples": HOP_SAMPLES,
    "columns_per_frame": COLUMNS_PER_FRAME,
    "window_samples": WINDOW_SAMPLES,
    "num_bands": NUM_BANDS,
    "floor": FLOOR,
}


class MelRVQ:
    """A fitted codec; see csm_ft.codecs.base.Codec."""

    def __init__(
        self,
        mean: NDArray[np.float32],
        scale: NDArray[np.float32],
        centroids: NDArray[np.float16],
        source: str,
    ) -> None:
        """Wrap fitted arrays.

        `mean` and `scale` [M] normalise the log-mels; `centroids` [K, vocab_size - 1, 4 * M] are
        those of the residuals, starting with id 1.
        """
        self.name = "melrvq"
        self.source = source
        self.sample_rate_hz = SAMPLE_RATE_HZ
        self.frame_samples = FRAME_SAMPLES
        self.num_codebooks = centroids.shape[0]
        self.vocab_size = centroids.shape[1] + 1
        self.mean = mean
        self.scale = scale
        self.centroids = centroids

    @property
    def fingerprint(self) -> str:
        """Hex digest of the arrays and the constants."""
        digest = hashlib.sha256(json.dumps(CONSTANTS, sort_keys=True).encode())
        for array in (self.mean, self.scale, self.centroids):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def encode(self, waves: Sequence[Wave]) -> list[Codes]:
        """Return ceil(N / 1280) frames for each wave of N samples, each encoded by itself."""
        return [self._quantise(_frames(_log_mel(wave), self.mean, self.scale)) for wave in waves]

    def decode(self, codes: Codes) -> Wave:
        """Return T * 1280 samples for [T, K] codes; deterministic.

        Id 0 adds nothing to its frame. Raises ValueError for codes of another shape or out of
        range.
        """
        if codes.ndim != 2 or codes.shape[1] != self.num_codebooks:
            raise ValueError(
                f"codes of shape {codes.shape} are not [frames, {self.num_codebooks} codebooks]"
            )
        if not len(codes):
            return np.zeros(0, dtype=np.float32)
        if int(codes.max()) >= self.vocab_size:
            raise ValueError(
                f"code {int(codes.max())} is not below the codec's {self.vocab_size} ids; another"
                " codec made these codes"
            )
        # A frame is the sum of one centroid per codebook; id i is centroid i - 1.
        frames = np.zeros((len(codes), NUM_BANDS * COLUMNS_PER_FRAME))
        for centroids, ids in zip(
            self.centroids.astype(np.float64), codes.T.astype(np.int64), strict=True
        ):
            frames += np.where((ids > 0)[:, None], centroids[np.maximum(ids - 1, 0)], 0.0)
        return _griffin_lim(_linear(frames.reshape(-1, NUM_BANDS) * self.scale + self.mean))

    def first(self, num_codebooks: int) -> "MelRVQ":
        """Return the codec with only its first `num_codebooks` codebooks.

        Residual order makes it a coarser codec with the same leading codes. Raises CodecError if
        there are fewer.
        """
        if not 1 <= num_codebooks <= self.num_codebooks:
            raise CodecError(
                f"{self.source} has {self.num_codebooks} codebooks, not {num_codebooks}; ask for"
                f" 1..{self.num_codebooks}"
            )
        return MelRVQ(self.mean, self.scale, self.centroids[:num_codebooks], self.source)

    def errors(self, waves: Sequence[Wave]) -> list[float]:
        """Return the share of the variance of `waves` that 1, 2, ..., K codebooks lose, [K].

        It falls with every useful codebook.
        """
        residual = np.concatenate(
            [_frames(_log_mel(wave), self.mean, self.scale) for wave in waves]
        )
        whole = np.mean(residual**2)
        lost = []
        for centroids in self.centroids.astype(np.float64):
            residual = residual - centroids[_nearest(residual, centroids)]
            lost.append(float(np.mean(residual**2) / whole))
        return lost

    def to_bytes(self) -> bytes:
        """Return the codec as safetensors, the same bytes for the same codec."""
        # One metadata key only: safetensors writes several in no fixed order.
        tensors = {
            "mean": self.mean,
            "scale": self.scale,
            "centroids": np.ascontiguousarray(self.centroids),
        }
        return save_tensors(tensors, metadata={"melrvq": json.dumps(CONSTANTS, sort_keys=True)})

    def _quantise(self, residual: Array) -> Codes:
        codes = np.empty((len(residual), self.num_codebooks), dtype=np.uint16)
        for k, centroids in enumerate(self.centroids.astype(np.float64)):
            nearest = _nearest(residual, centroids)
            codes[:, k] = nearest + 1  # id 0 is reserved
            residual = residual - centroids[nearest]
        return codes


def load(source: Path | str | bytes) -> MelRVQ:
    """Open a fitted codec from a file, or from the bytes kept in a token file.

    Raises CodecError for a missing or unreadable codec, and for one of another version.
    """
    where = "the codec in the token file" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise CodecError(
            f"{source}: no such codec file; fit one with --fit_codec, or use the embedded one"
            " (--codec melrvq without a file)"
        )
    blob = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        tensors = load_tensors(blob)
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
        constants = json.loads(header["__metadata__"]["melrvq"])
        mean, scale, centroids = tensors["mean"], tensors["scale"], tensors["centroids"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise CodecError(
            f"{where}: not a melrvq codec ({error}); make one with --fit_codec"
        ) from error
    if not isinstance(constants, dict):
        raise CodecError(
            f"{where}: not a melrvq codec (its constants are {constants!r}); make one with"
            " --fit_codec"
        )
    if constants != CONSTANTS:
        different = sorted(k for k in CONSTANTS | constants if constants.get(k) != CONSTANTS.get(k))
        raise CodecError(
            f"{where}: made by another version of melrvq (other {', '.join(different)}); fit it"
            " again with --fit_codec"
        )
    if (
        mean.shape != (NUM_BANDS,)
        or scale.shape != (NUM_BANDS,)
        or centroids.ndim != 3
        or centroids.shape[2] != NUM_BANDS * COLUMNS_PER_FRAME
    ):
        raise CodecError(
            f"{where}: mean {mean.shape}, scale {scale.shape} and centroids {centroids.shape} do"
            " not fit a melrvq codec; fit it again"
        )
    return MelRVQ(
        mean.astype(np.float32), scale.astype(np.float32), centroids.astype(np.float16), where
    )


def fit(
    waves: Sequence[Wave], *, num_codebooks: int = 8, vocab_size: int = 256, seed: int = 0
) -> MelRVQ:
    """Fit a codec on 16 kHz waves: k-means on the frames, then on each codebook's residuals.

    Takes seconds for minutes of speech and about a minute for half an hour. The same waves in the
    same order give the same codec. Raises CodecError for too little speech.
    """
    from sklearn.cluster import KMeans  # takes a second to import, and only fitting needs it
    from sklearn.exceptions import ConvergenceWarning

    columns = np.concatenate([np.zeros((0, NUM_BANDS)), *(_log_mel(wave) for wave in waves)])
    num_frames = len(columns) // COLUMNS_PER_FRAME
    if num_frames < vocab_size - 1:
        raise CodecError(
            f"{num_frames * FRAME_SAMPLES / SAMPLE_RATE_HZ:.1f} s of speech are too little to fit"
            f" {vocab_size} ids per codebook; give at least"
            f" {vocab_size * FRAME_SAMPLES / SAMPLE_RATE_HZ:.0f} s, or use the embedded codec"
        )
    mean = columns.mean(0).astype(np.float32)
    scale = np.maximum(columns.std(0), 0.01).astype(np.float32)
    residual = _frames(columns, mean, scale)
    centroids = np.empty((num_codebooks, vocab_size - 1, residual.shape[1]), dtype=np.float16)
    # Threads would sum in a different order each time, and so give a different codec.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # sklearn warns when there are fewer distinct frames than ids; some ids then stay unused.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for k in range(num_codebooks):
            means = KMeans(vocab_size - 1, n_init="auto", max_iter=50, random_state=seed + k).fit(
                residual
            )
            centroids[k] = means.cluster_centers_.astype(np.float16)
            # Subtract the rounded centroids, as encoding does: the next codebook then also corrects
            # the rounding.
            stored = centroids[k].astype(np.float64)
            residual = residual - stored[_nearest(residual, stored)]
    return MelRVQ(mean, scale, centroids, f"fitted on {len(waves)} clips")


def _frames(columns: Array, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Array:
    """[C, M] -> [T, 4 * M], normalised: otherwise loud bands would claim all centroids."""
    return ((columns - mean) / scale).reshape(-1, COLUMNS_PER_FRAME * NUM_BANDS)


def _nearest(points: Array, centroids: Array) -> NDArray[np.int64]:
    """Return the index of the centroid nearest to each point.

    Double precision keeps the summation order of the matrix product from deciding a code.
    """
    # |p - c|^2 = |p|^2 + |c|^2 - 2 p.c, and |p|^2 is the same for all centroids.
    return ((centroids**2).sum(1) - 2 * points @ centroids.T).argmin(1)


def _log_mel(wave: Wave) -> Array:
    """[N] -> [C, M], C = 4 * ceil(N / 1280)."""
    num_columns = -(-len(wave) // FRAME_SAMPLES) * COLUMNS_PER_FRAME
    if not num_columns:
        return np.zeros((0, NUM_BANDS))
    whole = np.pad(wave.astype(np.float64), (0, num_columns * HOP_SAMPLES - len(wave)))
    spectrum = np.abs(np.fft.rfft(_windows(whole) * _hann(np.float64), axis=1))
    return np.log(np.maximum(spectrum @ _mel_filters().T, FLOOR))


@cache
def _hann(dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
    return np.hanning(WINDOW_SAMPLES + 1)[:-1].astype(dtype)


@cache
def _mel_filters() -> Array:
    """[M, F] triangles, evenly spaced on the mel scale 2595 log10(1 + f / 700) from 0 to 8 kHz."""
    top_mel = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top_mel, NUM_BANDS + 2) / 2595) - 1)
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, WINDOW_SAMPLES // 2 + 1)
    rising = (bins_hz - edges_hz[:-2, None]) / np.diff(edges_hz)[:-1, None]
    falling = (edges_hz[2:, None] - bins_hz) / np.diff(edges_hz)[1:, None]
    return np.maximum(0, np.minimum(rising, falling))


def _linear(log_mel: Array) -> Array:
    """[C, M] -> [C, F] amplitudes: each bin gets the mean amplitude of its bands.

    Unlike a pseudo-inverse of the filters, this is smooth and never negative.
    """
    filters = _mel_filters()
    band_means = np.exp(log_mel) / filters.sum(1)
    return band_means @ (filters / np.maximum(filters.sum(0), 1e-6))


def _griffin_lim(amplitudes: Array) -> Wave:
    """[C, F] -> [C * 320] by fast Griffin-Lim (Perraudin, Balazs, Soendergaard 2013).

    It starts from a fixed random phase, so the same amplitudes always give the same wave. It runs
    in numpy on one thread: on a busy machine, torch's threads wait for each other twenty times
    longer than they compute.
    """
    target = amplitudes.astype(np.float32)
    weights = _weights(len(target))
    phase = np.random.default_rng(0).uniform(-np.pi, np.pi, target.shape).astype(np.float32)
    spectrum: NDArray[Any] = (target * np.exp(1j * phase)).astype(np.complex64)
    before = np.zeros_like(spectrum)
    for _ in range(GRIFFIN_LIM_STEPS):
        # Project onto the spectra that some wave has, extrapolate, and restore the amplitudes. Of
        # the extrapolated spectrum only the phase counts, so its scale 1 + momentum is left out.
        # numpy's rfft takes three times as long in single precision as in double.
        windows = _windows(_overlap_add(spectrum, weights)) * _hann(np.float64)
        consistent = np.fft.rfft(windows, axis=1).astype(np.complex64)
        before *= np.float32(GRIFFIN_LIM_MOMENTUM / (1 + GRIFFIN_LIM_MOMENTUM))
        ahead = np.subtract(consistent, before, out=before)
        spectrum = ahead * (target / (np.abs(ahead) + np.float32(1e-9)))
        before = consistent
    return _overlap_add(spectrum, weights).clip(-1, 1)


def _windows(wave: NDArray[Any]) -> NDArray[Any]:
    """[C * 320] -> [C, 1024]: column c is centred in the middle of its 20 ms."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(wave, OVERHANG_SAMPLES), WINDOW_SAMPLES)[
        ::HOP_SAMPLES
    ]


def _overlap_add(spectrum: NDArray[np.complex64], weights: NDArray[np.float32]) -> Wave:
    """[C, F] -> [C * 320]: the wave whose windowed spectra are nearest in least squares.

    See Griffin and Lim 1984, equation 6; `weights` are those of C columns.
    """
    total = _add_windows(np.fft.irfft(spectrum, axis=1) * _hann()) / weights
    return total[OVERHANG_SAMPLES : OVERHANG_SAMPLES + len(spectrum) * HOP_SAMPLES]


def _weights(num_columns: int) -> NDArray[np.float32]:
    """Return the sum of all squared windows at each sample, [(C + 3) * 320]."""
    squares = np.broadcast_to(_hann() ** 2, (num_columns, WINDOW_SAMPLES))
    return np.maximum(_add_windows(squares), np.float32(1e-6))


def _add_windows(windows: NDArray[Any]) -> NDArray[np.float32]:
    """Sum windows [C, 1024], each 320 samples after the one before it, into a wave.

    The wave has (C + 3) * 320 samples.
    """
    # Block by block of 320 samples: a few large additions instead of one small one per window.
    num_columns, num_blocks = len(windows), -(-WINDOW_SAMPLES // HOP_SAMPLES)
    total = np.zeros((num_columns + num_blocks - 1, HOP_SAMPLES), dtype=np.float32)
    for block in range(num_blocks):
        part = windows[:, block * HOP_SAMPLES : (block + 1) * HOP_SAMPLES]
        total[block : block + num_columns, : part.shape[1]] += part
    return total.ravel()
