"""From folders of expressive speech to a page: import, merge, encode, train, generate, evaluate.

    python -m csm_ft.expressive RAVDESS CREMA-D --output exp/expressive
    python -m csm_ft.expressive RAVDESS CREMA-D --family moshi --output exp/moshi
    python -m csm_ft.expressive my-recordings.jsonl --sweep 20 --n_gpus 2

Each step is a program that can be run by itself; its command is printed. The same command resumes:
a step whose inputs have not changed is skipped.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from csm_ft.atomic import disk_errors, exclusive
from csm_ft.cli import parse_args, run_program
from csm_ft.config.yaml_file import load_yaml
from csm_ft.console import console
from csm_ft.errors import ConfigError
from csm_ft.expressive import guide
from csm_ft.expressive.config import PROGRAM, ExpressiveConfig
from csm_ft.expressive.steps import Step, Steps

_NUM_LATER = 5  # steps behind the imports
_INTERRUPTED = 130  # the exit code of every program after Ctrl-C


def run(config: ExpressiveConfig) -> int:
    """Run all steps that are not done; return the exit code of the first that fails, or 0."""
    folder = Path(config.output)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another process works in this folder; wait for it, or choose another"
    with exclusive(folder / ".lock", busy):
        total = len(config.folders) + _NUM_LATER + bool(config.recipe.export_format)
        steps = Steps(folder)
        for number, step in enumerate(_plan(config, folder), start=1):
            code = steps.run(step, number, total)
            if code:
                end = f"ended with exit code {code}; correct what it says"
                end = "was interrupted" if code == _INTERRUPTED else end
                console.print(f"{step.name} {end}; the same command continues there", markup=False)
                return code
    return 0


def _plan(config: ExpressiveConfig, folder: Path) -> Iterator[Step]:
    """Yield the steps, each once those before it are done."""
    rows = []
    for name, path in list(_named(config.folders)):
        output = folder / "rows" / f"{name}.jsonl"
        argv = ["-m", "csm_ft.datasets", "auto", str(path), "--output", str(output)]
        yield Step(f"import {name}", argv, [path], output)
        rows.append(output)
    merged, tokens = folder / "merged.jsonl", folder / "tokens.hdf5"
    argv = ["-m", "csm_ft.datasets", "merge", *map(str, rows), "--output", str(merged)]
    if config.balance != "none":
        argv += ["--balance", config.balance]
    argv += [word for pair in config.map for word in ("--map", pair)]
    yield Step("merge", argv, rows, merged)
    argv = ["-m", "pretokenize", "--family", config.family, "--train_data", str(merged)]
    argv += ["--output", str(tokens), "--text_template", config.template]
    argv += _config(config.pretokenize_file)
    yield Step("encode", argv, [merged, *_paths(config.pretokenize_file)], tokens)
    yield from _use(config, folder, tokens)


def _use(config: ExpressiveConfig, folder: Path, tokens: Path) -> Iterator[Step]:
    """Yield the steps that need tokens: train, generate, evaluate, export."""
    from csm_ft.expressive.prompts import write_prompts  # imports torch

    prompts = folder / "prompts.json"
    write_prompts(tokens, config.template, config.num_sentences, prompts)
    train = _train(config, tokens, prompts)
    yield train
    model = train.output
    samples = folder / f"samples-{model.name.rpartition('-')[2]}"
    asked = ["--prompts", str(prompts), "--output"]
    argv = ["-m", "csm_ft.generate", "--model", str(model), *asked, str(samples)]
    yield Step("generate", argv, [prompts], samples / "index.html")
    evaluation = folder / f"evaluation-{model.name.rpartition('-')[2]}"
    argv = ["-m", "csm_ft.evaluate", str(model), "--data", str(tokens), *asked, str(evaluation)]
    argv += _config(config.evaluate_config)
    inputs = [prompts, *_paths(config.evaluate_config)]
    yield Step("evaluate", argv, inputs, evaluation / "evaluation.json")
    if export_format := config.recipe.export_format:
        exported = folder / f"export-{model.name.rpartition('-')[2]}"
        argv = ["-m", "csm_ft.export", str(model), "--format", export_format, "--dtype", "bf16"]
        yield Step("export", [*argv, "--output", str(exported)], [], exported / "README.md")


def _train(config: ExpressiveConfig, tokens: Path, prompts: Path) -> Step:
    """Return the training, or the sweep; its folder is named after all that decides it."""
    from csm_ft.expressive.prompts import check_comparable

    argv, inputs = ["-m", "train"], [tokens, *_paths(config.train_file)]
    if config.sweep:
        argv = ["-m", "sweep", "--n_trials", str(config.sweep), "--n_gpus", str(config.n_gpus)]
        argv += ["--sweep_config", config.sweep_file]
        inputs += _paths(config.sweep_file)
    argv += [*_config(config.train_file), "--data", str(tokens)]
    if config.sweep and "best_by" not in (load_yaml(Path(config.train_file)) or {}):
        # The lowest val_loss is that of weights that ignore the tags.
        check_comparable(prompts)
        argv += ["--best_by", "expression_distance", "--judge_every", "1/3"]
        argv += ["--judge_prompts", str(prompts)]
        inputs.append(prompts)
    key = Step("train", argv, inputs, tokens).fingerprint()[:8]
    output = tokens.parent / f"{'sweep' if config.sweep else 'run'}-{key}"
    return Step("train", [*argv, "--output_dir", str(output)], inputs, output)


def _named(folders: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the data sets by the names of their folders or files; ConfigError for two of a name."""
    seen: dict[str, str] = {}
    for one in folders:
        path = Path(one)
        if not path.exists():
            raise ConfigError(f"{one}: no such folder or file; name a data set, or metadata")
        name = path.resolve().stem if path.is_file() else path.resolve().name
        if name in seen:
            raise ConfigError(f"{seen[name]} and {one} have one name; rename one of the two")
        seen[name] = one
        yield name, path


def _config(path: str) -> list[str]:
    return ["--config", path] if path else []


def _paths(path: str) -> list[Path]:
    return [Path(path)] if path else []


def main(argv: Sequence[str]) -> int:
    """Command line; 0 all steps are done, else the exit code of the step that is not."""

    def program() -> int:
        guide.check(argv)
        config = parse_args(
            ExpressiveConfig,
            argv,
            program=PROGRAM,
            description=(__doc__ or "").split("\n")[0],
        )
        return run(config)

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
