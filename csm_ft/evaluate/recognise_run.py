"""A recogniser that was trained here: any family that answers sound with text."""

from dataclasses import replace

import soxr

from csm_ft.data.audio import Wave
from csm_ft.errors import ConfigError
from csm_ft.families import open_family
from csm_ft.families.base import Prompt, SamplingOptions
from csm_ft.runs.encoder_record import family_of, find_record
from csm_ft.runs.source import find

_HEARD_HZ = 16000  # of the waves that are given


class RunRecogniser:
    """The weights of a run, with the encoder of its token file."""

    languages: tuple[str, ...] = ()

    def __init__(self, name: str, device: str) -> None:
        source = find(name)
        family = open_family(family_of(source))
        record = find_record(source)
        if record.store is None:
            raise ConfigError(f"--asr run:{name}: {record.found or 'no token file is known'}")
        self.encoder = family.open_encoder(record.store, device)
        self.model = family.load_model(source.weights).requires_grad_(False).to(device)
        self.name = f"{family.name} {source.label}"

    def hear(self, wave: Wave) -> str:
        """Return the words of a wave."""
        rate = self.encoder.sample_rate_hz
        own = wave if rate == _HEARD_HZ else soxr.resample(wave, _HEARD_HZ, rate)
        (arrays,) = self.encoder.encode_audio([own])
        if isinstance(arrays, str):
            raise ValueError(arrays)
        prompt = replace(Prompt("heard", ""), arrays=arrays)
        (sample,) = self.model.sample([prompt], self.encoder, SamplingOptions())
        if sample.text is None:
            raise ConfigError(f"--asr: {self.name} answers with sound, not with text")
        return sample.text
