"""DNSMOS P.835, Microsoft's estimate of how people rate noisy speech, from 1 to 5.

C. K. A. Reddy et al., "DNSMOS P.835: A non-intrusive perceptual objective speech quality metric to
evaluate noise suppressors" (arXiv:2110.01763). The network comes in the wheel `speechmos`; its
module is not imported, as it needs librosa.
"""

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from csm_ft.data.audio import Wave

DNSMOS_HZ = 16000
_NUM_SAMPLES = 144_160  # the network's input: 9.01 s
# speechmos/dnsmos.py, get_polyfit_val: from the network's outputs to the scale of people.
_POLYNOMIALS = {
    "dnsmos_signal": (-0.08397278, 1.22083953, 0.0052439),
    "dnsmos_background": (-0.13166888, 1.60915514, -0.39604546),
    "dnsmos": (-0.06766283, 1.11546468, 0.04602535),
}


class Dnsmos:
    """The network of the wheel, by onnxruntime."""

    def __init__(self) -> None:
        import onnxruntime  # pyright: ignore[reportMissingImports]

        spec = find_spec("speechmos")
        assert spec is not None, "installed"
        assert spec.origin is not None, "checked by open_dnsmos"
        path = Path(spec.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.name = f"speechmos {version('speechmos')}, onnxruntime {onnxruntime.__version__}"

    def score(self, wave: Wave) -> Mapping[str, float]:
        """Score a wave [N] at 16 kHz: windows of 9.01 s, one a second; a shorter one is repeated.

        ValueError for an empty wave.
        """
        if not len(wave):
            raise ValueError("no sound")
        sound = np.clip(np.resize(wave, max(len(wave), _NUM_SAMPLES)), -1, 1).astype(np.float32)
        starts = range(0, len(sound) - _NUM_SAMPLES + 1, DNSMOS_HZ)
        windows = [sound[start : start + _NUM_SAMPLES][None] for start in starts]
        raw = [self.session.run(None, {"input_1": window})[0][0] for window in windows]
        scores = zip(_POLYNOMIALS.items(), np.array(raw).T, strict=True)
        return {name: float(np.polyval(terms, column).mean()) for (name, terms), column in scores}


def open_dnsmos() -> "Dnsmos | str":
    """Open the network; a str says what is not installed."""
    missing = [name for name in ("speechmos", "onnxruntime") if find_spec(name) is None]
    if missing:
        return f"no DNSMOS: {', '.join(missing)} is not installed (pip install speechmos==0.0.1.1)"
    return Dnsmos()
