"""Generate samples with trained weights.

With any weights that train.py, sweep.py or csm_ft.export left, or that others publish.

    python -m csm_ft.generate --model exp/run --text "Hello." --text "How are you?"
    python -m csm_ft.generate --model exp/run --text "Yes, I did." \
        --context "question.wav:Did you see it?:ben"
    python -m csm_ft.generate --model sesame/csm-1b --prompts prompts.json --num_takes 3

Writes 001-hello.wav, its facts as 001-hello.json, and index.html with all that the folder holds.
Only the paths of the samples go to stdout. The same seed, model and prompt give the same sample;
take n of seed s is take 1 of seed s + n - 1.
"""

import sys
from collections.abc import Sequence

from csm_ft import cli
from csm_ft.families import DEFAULT_FAMILY, open_family


def main(argv: Sequence[str]) -> int:
    """Command line.

    0 generated, or with --resume there already, 1 the model gave nothing, 2 a mistake of the user,
    130 interrupted (what is written stays).
    """
    return cli.run_program(lambda: _generate(argv))


def _generate(argv: Sequence[str]) -> int:
    named = cli.peek(argv, ("family", "model"))
    name, source = named.get("family", "auto"), None
    if not cli.wants_help(argv) and named.get("model"):
        from csm_ft.runs.encoder_record import family_of
        from csm_ft.runs.source import find

        source = find(named["model"])
        name = family_of(source, name)
    family = open_family(DEFAULT_FAMILY if name == "auto" else name)
    config = cli.parse_args(
        family.generate_config,
        argv,
        program="-m csm_ft.generate",
        description=(__doc__ or "").split("\n")[0],
    )
    assert source is not None, "a config without a model is refused"
    family.check_prompts(config)
    from csm_ft.generate.run import run  # imports torch

    return run(config, source, family)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
