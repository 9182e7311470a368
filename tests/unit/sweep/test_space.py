"""The search space.

The public trainer's format, our two keys more, and every mistake told before anything runs.
"""

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.errors import ConfigError
from csm_ft.families import names
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import find_space, read_rows
from csm_ft.sweep.space import Space, make_space

ROOT = Path(__file__).resolve().parents[3]
PUBLIC = """
batch_size: {type: categorical, values: [8, 16, 32]}
learning_rate: {type: float, min: 1e-6, max: 1e-2, log: true}
lr_decay: {type: categorical, values: [linear, constant, exponential, cosine]}
weight_decay: {type: float, min: 1e-3, max: 1e-1, log: true}
warmup_steps: {type: int, min: 0, max: 1000}
max_grad_norm: {type: float, min: 0.5, max: 5.0}
grad_acc_steps: {type: int, min: 1, max: 3}
decoder_loss_weight: {type: fixed, value: 0.5}
"""


def space(tmp_path: Path, text: str, *argv: str, num_train_examples: int = 900) -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return make_space(read_rows(path, parse(list(argv))), num_train_examples)


def draw(
    space: Space, seed: int = 0, fixed: dict[str, Any] | None = None
) -> tuple[dict[str, Any], optuna.trial.FrozenTrial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    if fixed is not None:
        study.enqueue_trial(fixed)
    trial = study.ask()
    return space.suggest(trial), study.trials[0]


def test_public_trainers_file_runs_unchanged(tmp_path: Path) -> None:
    public = space(tmp_path, PUBLIC, "--n_epochs", "3")
    assert public.base.model_dump()["decoder_loss_weight"] == 0.5
    assert public.first_points()[0] == {
        "batch_size": 8,
        "learning_rate": 3e-5,
        "lr_decay": "linear",
        "weight_decay": 0.002,
        "warmup_steps": 17,  # 5 % of 900 clips x 3 epochs / 8 = 337.5 steps
        "max_grad_norm": 1.3,
        "grad_acc_steps": 1,
    }
    assert [point["learning_rate"] for point in public.first_points()] == [
        3e-5,
        pytest.approx(9e-5),
        pytest.approx(1e-5),
    ]
    values, _ = draw(public)
    assert 1e-6 <= values["learning_rate"] <= 1e-2
    assert public.base.replace(**values).warmup_steps == str(values["warmup_steps"])


@pytest.mark.parametrize("family", names())
def test_each_family_has_a_space_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.chdir(tmp_path)
    request = parse(["--family", family])
    space = make_space(read_rows(find_space(request.sweep.sweep_config), request), 100)
    assert "learning_rate" in space.first_points()[0]
    assert parse(["--family", family, "--sweep_config", "my.yaml"]).sweep.sweep_config == "my.yaml"


def test_own_file_is_valid_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours = make_space(read_rows(find_space("configs/sweep.yaml"), parse([])), 100)
    assert len(ours.first_points()) == 3
    lines = find_space("configs/sweep.yaml").read_text().splitlines()
    assert all("#" in line for line in lines if line and not line.startswith(" ")), (
        "each key has its comment"
    )


def test_space_of_dialogues_begins_with_the_public_example() -> None:
    request = parse(["--family", "moshi"])
    ours = make_space(read_rows(ROOT / "configs/moshi_sweep.yaml", request), 100)
    first = ours.base.replace(**ours.first_points()[0])
    assert (first.method, first.learning_rate, first.lora_rank) == ("lora", 2e-6, 128)
    drawn = [draw(ours, seed)[0] for seed in range(20)]
    assert {"lora", "full"} == {values["method"] for values in drawn}
    assert all(ours.base.replace(**values).method == values["method"] for values in drawn)


def test_methods_space_searches_only_real_adapters() -> None:
    methods = make_space(read_rows(ROOT / "configs/sweep_methods.yaml", parse([])), 100)
    drawn = [draw(methods, seed)[0] for seed in range(40)]
    by_method = {values["method"]: set(values) for values in drawn}
    common = {"method", "learning_rate", "batch_size"}
    assert by_method == {
        "full": common | {"decoder_lr_factor", "embeddings_lr_factor"},
        "lora": (
            common
            | {"decoder_lr_factor", "lora_lr_factor", "lora_rank", "lora_targets", "lora_dropout"}
        ),
        "backbone_only": common,
        "depth_only": common,
    }
    assert all(methods.base.replace(**values).method == values["method"] for values in drawn), (
        "every draw is a valid config"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "context_positions: {type: int, min: 100, max: 200}",
            "context_positions cannot be searched",
        ),
        ("val_turns: {type: categorical, values: [all, last]}", "val_turns cannot be searched"),
        (
            "loss_turns: {type: categorical, values: [all, 'speaker:a']}",
            "one speaker's turns see fewer examples",
        ),
        ("context_positions: {type: fixed, value: 100}", "context_positions cannot be fixed here"),
        ("val_turns: {type: fixed, value: last}", "val_turns cannot be fixed here"),
        (
            "lora_rank: {type: categorical, values: [8, 16], when: {method: lora}}",
            "method is 'full' in every trial",
        ),
        (
            "lora_targets: {type: categorical, values: [attention, nonsense]}",
            "'nonsense' is none of attention",
        ),
    ],
)
def test_incomparable_rows_are_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space(
            tmp_path,
            f"learning_rate: {{type: float, min: 1e-5, max: 1e-4}}\n{row}\n",
            "--method",
            "lora" if "nonsense" in row else "full",
        )


def test_fixed_rows_decide_what_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(f"{PUBLIC}loss_turns: {{type: fixed, value: last}}\n")
    assert read_rows(path, parse([])).base.model_dump()["loss_turns"] == "last"


def test_target_turns_can_be_searched(tmp_path: Path) -> None:
    assert space(
        tmp_path, "loss_turns: {type: categorical, values: [all, last]}"
    ).first_points() == [{"loss_turns": "all"}]


def test_default_comes_from_row_then_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "learning_rate: {type: float, min: 1e-5, max: 1e-4, log: true}\nbatch_size: {type:"
        " categorical, values: [16, 32]}\nweight_decay: {type: float, min: 0, max: 0.1, default:"
        " 0.05}\n"
    )
    point = space(tmp_path, text, "--learning_rate", "2e-4").first_points()[0]
    assert point == {"learning_rate": 1e-4, "batch_size": 16, "weight_decay": 0.05}
    shown = capsys.readouterr().out
    assert "learning_rate: 0.0002 is not in the space" in shown
    assert "batch_size: 8 is not in the space" in shown


def test_neighbours_stay_within_range(tmp_path: Path) -> None:
    text = "learning_rate: {type: float, min: 2e-5, max: 3e-5}"
    assert [p["learning_rate"] for p in space(tmp_path, text).first_points()] == [3e-5, 2e-5]


def test_condition_decides_what_is_searched(tmp_path: Path) -> None:
    text = (
        "min_lr_ratio: {type: float, min: 0.1, max: 0.3, default: 0.1, when: {lr_decay: [cosine,"
        " linear]}}\nlr_decay: {type: categorical, values: [cosine, linear, constant], default:"
        " cosine}\n"
    )
    conditional = space(tmp_path, text)
    assert [p.name for p in conditional.parameters] == ["lr_decay", "min_lr_ratio"]
    assert conditional.first_points()[0] == {"lr_decay": "cosine", "min_lr_ratio": 0.1}
    assert set(draw(conditional, fixed={"lr_decay": "cosine"})[0]) == {"lr_decay", "min_lr_ratio"}
    assert set(draw(conditional, fixed={"lr_decay": "constant"})[0]) == {"lr_decay"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "one key per option"),
        ("- a", "one key per option"),
        ("a: [", "not readable as YAML"),
        ("learning_rat: {type: float, min: 1, max: 2}", "did you mean learning_rate?"),
        ("learning_rate: 1e-4", "a row has"),
        ("learning_rate: {type: flaot, min: 1, max: 2}", "flaot"),
        ("learning_rate: {type: float, min: 1e-6}", "learning_rate.max"),
        ("learning_rate: {type: float, min: 1e-6, max: 1e-3, step: 2}", "whole number of steps"),
        ("learning_rate: {type: float, min: 1e-3, max: 1e-6}", "min above max"),
        ("learning_rate: {type: float, min: 0, max: 1e-3, log: true}", "log needs min above 0"),
        ("learning_rate: {type: float, min: 0, max: 1e-3}", "learning_rate 0.0 is not above 0"),
        ("learning_rate: {type: float, min: 1e-5, max: .inf}", "learning_rate.max"),
        ("batch_size: {type: categorical, values: []}", "batch_size.values"),
        ("batch_size: {type: categorical, values: [8, eight]}", "choice 'eight'"),
        ("batch_size: {type: categorical, values: [8, '8']}", "twice"),
        ("batch_size: {type: int, min: 0, max: 8}", "batch_size 0 is not above 0"),
        ("lr_decay: {type: categorical, values: [linear, square]}", "choice 'square'"),
        ("lr_decay: {type: fixed, value: square}", "square"),
        ("data: {type: categorical, values: [a, b]}", "trials on other data cannot be compared"),
        ("seed: {type: int, min: 0, max: 9}", "finds luck"),
        ("n_epochs: {type: int, min: 1, max: 9}", "give --n_epochs"),
        ("val_every: {type: int, min: 1, max: 9}", "does not change what the model learns"),
        ("val_every: {type: fixed, value: 9}", "drop the row"),
        ("best_by: {type: categorical, values: [val_loss, val_c0]}", "does not change what"),
        ("family: {type: fixed, value: csm}", "drop the row"),
        ("output_dir: {type: fixed, value: x}", "drop the row"),
        ("lr_decay: {type: fixed, value: linear}", "nothing is searched"),
        ("weight_decay: {type: float, min: 0, max: 1, default: 3}", "not in its own range"),
        (
            "weight_decay: {type: float, min: 0, max: 1, when: {lr_decay: cosine}}",
            "lr_decay is 'linear' in every trial",
        ),
        ("weight_decay: {type: float, min: 0, max: 1, when: {decay: cosine}}", "not an option"),
        ("weight_decay: {type: float, min: 0, max: 1, when: {weight_decay: 1}}", "circle"),
    ],
)
def test_mistakes_name_file_key_and_rule(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        space(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "space.yaml"))
    assert words in str(error.value)


def test_fixed_value_and_flag_must_agree(tmp_path: Path) -> None:
    text = PUBLIC
    assert (
        space(tmp_path, text, "--decoder_loss_weight", "0.50").base.model_dump()[
            "decoder_loss_weight"
        ]
        == 0.5
    )
    with pytest.raises(ConfigError, match=r"fixed to 0\.5 here and given as '0\.7'"):
        space(tmp_path, text, "--decoder_loss_weight", "0.7")


def test_given_value_beats_shipped_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "sweep.yaml"
    text = (ROOT / "configs" / name).read_text()
    (tmp_path / name).write_text(text)
    request = parse(["--max_grad_norm", "0.5"])
    found = make_space(read_rows(tmp_path / name, request), 100)
    assert found.base.max_grad_norm == 0.5
    assert "max_grad_norm is 0.5, as given, not 1.3" in " ".join(capsys.readouterr().out.split())
    (tmp_path / name).write_text(f"{text}\n# mine now\n")
    with pytest.raises(ConfigError, match=r"max_grad_norm is fixed to 1\.3 here"):
        make_space(read_rows(tmp_path / name, request), 100)


SETTINGS = """\
method: {type: categorical, values: [full, lora]}
lora_rank: {type: int, min: 2, max: 4, when: {method: lora}}
grad_acc_steps: {type: float, min: 1, max: 1}
"""


def test_settings_of_finite_spaces_are_counted(tmp_path: Path) -> None:
    text = SETTINGS.replace("grad_acc_steps", "weight_decay")
    settings = space(tmp_path, text).settings(100)
    assert settings is not None
    assert [(s["method"], s.get("lora_rank")) for s in settings] == [
        ("full", None),
        ("lora", 2),
        ("lora", 3),
        ("lora", 4),
    ]
    assert space(tmp_path, text).settings(3) is None
    assert (
        space(tmp_path, text + "learning_rate: {type: float, min: 1e-6, max: 1}").settings(100)
        is None
    )


def test_fixed_value_beats_sweeps_default(tmp_path: Path) -> None:
    text = "batch_size: {type: categorical, values: [8, 16]}\ngen_every: {type: fixed, value: 0}"
    assert space(tmp_path, text).base.gen_every == "0"


def test_steps_exclude_searched_batch_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="see different amounts of data"):
        space(tmp_path, "batch_size: {type: categorical, values: [8, 16]}", "--max_steps", "100")


def test_missing_file_names_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configs/sweep\.yaml"):
        read_rows(tmp_path / "none.yaml", parse([]))


@settings(max_examples=40, deadline=None)
@given(low=st.floats(1e-8, 1e-3), factor=st.floats(1.001, 1e4), seed=st.integers(0, 99))
def test_every_draw_is_a_valid_config(
    low: float, factor: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = {
        "learning_rate": {"type": "float", "min": low, "max": low * factor, "log": True},
        "grad_acc_steps": {"type": "int", "min": 1, "max": 4},
    }
    drawn = space(tmp_path_factory.mktemp("s"), yaml.safe_dump(rows))
    for values in (draw(drawn, seed)[0], *drawn.first_points()):
        config = drawn.base.replace(**values)
        assert low <= config.learning_rate <= low * factor
        assert config.grad_acc_steps in (1, 2, 3, 4)


CURVE = "data_fraction: {type: categorical, values: [0.5, 1.0]}\n"
SEEDS = "seed: {type: categorical, values: [0, 1, 2]}\n"


def test_seeds_are_searched_only_with_shares_of_the_data(tmp_path: Path) -> None:
    settings = space(tmp_path, CURVE + SEEDS).settings(100)
    assert settings is not None
    assert len(settings) == 6
    shipped = make_space(read_rows(ROOT / "configs/learning_curve.yaml", parse([])), 100)
    assert shipped.first_points() == [{"data_fraction": 1.0, "seed": 0}]
    with pytest.raises(ConfigError, match="seed cannot be searched: a search over seeds"):
        space(tmp_path, SEEDS + "batch_size: {type: categorical, values: [8, 16]}\n")
    with pytest.raises(ConfigError, match="seed cannot be searched"):
        space(tmp_path, SEEDS + "data_fraction: {type: fixed, value: 0.5}\n")


def test_shares_above_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data_fraction 1\.5 is above 1"):
        space(tmp_path, "data_fraction: {type: categorical, values: [0.5, 1.5]}\n")
