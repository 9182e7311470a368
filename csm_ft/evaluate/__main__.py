"""Evaluate weights, or a folder of samples: words, voice, sound, time and expression.

    python -m csm_ft.evaluate exp/run
    python -m csm_ft.evaluate sesame/csm-1b --data tokens.hdf5 --prompts prompts.json --num_takes 3
    python -m csm_ft.evaluate out --data tokens.hdf5 --asr large-v3

Writes evaluation.json, and index.html with every number beside its recording. The real recordings,
before and after the codec, and the base model are rows of the same table. A judge that is not
installed is named and left out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from csm_ft import cli
from csm_ft.config.evaluate import EvaluateConfig
from csm_ft.errors import ConfigError
from csm_ft.families import open_family


def main(argv: Sequence[str]) -> int:
    """Command line; 0 done, 2 a mistake of the user, 130 interrupted (nothing is written then)."""
    return cli.run_program(lambda: _evaluate(argv))


def _evaluate(argv: Sequence[str]) -> int:
    config = cli.parse_args(
        EvaluateConfig,
        argv,
        program="-m csm_ft.evaluate",
        description=(__doc__ or "").split("\n")[0],
    )
    from csm_ft.evaluate import recordings
    from csm_ft.evaluate.run import evaluate_samples, evaluate_weights  # imports torch
    from csm_ft.runs.encoder_record import family_of
    from csm_ft.runs.source import find

    folder = Path(config.model)
    if folder.is_dir() and not any(folder.iterdir()):
        raise ConfigError(f"{folder}: the folder is empty; name a run, weights or samples")
    if recordings.is_samples(folder):
        print(evaluate_samples(config))
        return 0
    source = find(config.model, config.checkpoint)
    print(evaluate_weights(config, source, open_family(family_of(source, config.family))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
