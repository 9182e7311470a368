"""The card of an export: true, complete, escaped, and silent about this machine."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from csm_ft.data.token_file import Store, open_store
from csm_ft.export.model_card import Layout, model_card
from csm_ft.families.csm.config import CsmConfig
from csm_ft.runs.checkpoint import TrainState
from csm_ft.runs.source import Origin

BAD = 'a|b <script>alert(1)</script> `x` *y* [z](http://evil) \n| --- | "'


def make_origin(
    folder: Path, tokens: Path, *, same_data: bool = True, **options: Any
) -> tuple[Origin, Store]:
    run = folder / "secret-place" / "my-run"
    run.mkdir(parents=True)
    store = open_store(tokens)
    fingerprint = store.info.content_fingerprint if same_data else "0123456789abcdef"
    (run / "env.json").write_text(json.dumps({"data_fingerprint": fingerprint}))
    rows = [
        {"kind": "val", "step": 0, "val_loss": 14.5, "val_c0": 9.0, "val_depth": 5.5},
        {"kind": "train", "step": 1, "loss": 3.0},
        {"kind": "val", "step": 50, "val_loss": 5.8625, "val_c0": 2.4, "val_depth": 3.4625},
        {"kind": "val", "step": 60, "val_loss": 6.1, "val_c0": 2.5, "val_depth": 3.6},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    config = CsmConfig(
        data=str(tokens),
        output_dir=str(run),
        model_name_or_checkpoint_path="sesame/csm-1b",
        **options,
    )
    best = {"val_loss": 5.8625, "step": 50, "examples": 400, "epoch": 2.5}
    return (
        Origin(
            str(run / "checkpoints/best"),
            run,
            run,
            None,
            config,
            TrainState(step=50, epoch=2.5, best=best),
        ),
        store,
    )


def make_card(origin: Origin, store: Store | None, layout: Layout = "sesame", **more: Any) -> str:
    given = {
        "base": origin.base,
        "load": "```python\nload()\n```",
        "proof": ["read back by a judge"],
        **more,
    }
    return model_card(origin, store, layout, **given)


def tables(text: str) -> dict[str, list[list[str]]]:
    """The tables of a card as GitHub reads them: title of the section -> rows of cells."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            title = token.content
        elif before.type == "tr_open":
            found.setdefault(title, []).append([])
        elif before.type in ("th_open", "td_open"):
            found[title][-1].append(token.content)
    return found


def test_a_card_has_all_that_one_asks_of_weights(tokens: Path, tmp_path: Path) -> None:
    origin, store = make_origin(tmp_path, tokens, learning_rate=1e-3)
    text = make_card(origin, store)
    card = ModelCard(text)
    assert card.data.to_dict() == {
        "base_model": "sesame/csm-1b",
        "library_name": "csm",
        "license": "apache-2.0",
        "pipeline_tag": "text-to-speech",
        "tags": ["csm", "speech", "csm-ft"],
    }
    assert "# my-run" in text
    assert (
        "fine-tuned from [sesame/csm-1b](https://huggingface.co/sesame/csm-1b) by csm-ft (method"
        " full), at step 50 (epoch 2.50)" in text
    )
    found = tables(text)
    assert [row[:2] for row in found["Data"][1:]] == [["train", "24"], ["val", "4"]]
    assert store.info.content_fingerprint in text
    assert "Speakers: <code>nora</code>" in text
    assert found["Scores"] == [
        ["weights", "val\\_loss", "c0", "depth"],
        ["before training", "14.5000", "9.0000", "5.5000"],
        ["these weights: step 50, epoch 2.50", "5.8625", "2.4000", "3.4625"],
    ]
    assert found["Configuration"][1:] == [
        ["<code>model\\_name\\_or\\_checkpoint\\_path</code>", "<code>sesame/csm-1b</code>"],
        ["<code>learning\\_rate</code>", "<code>0.001</code>"],
    ]
    options = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert options["learning_rate"] == 1e-3
    assert set(options) == set(CsmConfig.model_fields)
    for words in ("load()", "read back by a judge", "consent", "nats per frame".capitalize()):
        assert words in text


def test_other_weights_than_the_best_say_so(tokens: Path, tmp_path: Path) -> None:
    origin, store = make_origin(tmp_path, tokens)
    assert origin.state is not None
    later = replace(origin, state=replace(origin.state, step=60, epoch=3.0))
    assert [row[0] for row in tables(make_card(later, store))["Scores"][1:]] == [
        "before training",
        "these weights: step 60, epoch 3.00",
        "best of the run: step 50, epoch 2.50",
    ]


def test_nothing_of_this_machine_is_told(tokens: Path, tmp_path: Path) -> None:
    base = tmp_path / "secret-place" / "base"
    origin, store = make_origin(
        tmp_path,
        tokens,
        gen_prompts=str(tmp_path / "prompts.json"),
        wandb_name="/secret-place/name",
    )
    assert origin.config is not None
    origin = replace(origin, config=origin.config.replace(model_name_or_checkpoint_path=str(base)))
    for layout in ("sesame", "transformers", "adapter"):
        text = make_card(origin, store, layout)
        assert "secret-place" not in text
        assert str(tmp_path) not in text
        assert str(tokens.parent) not in text
        assert "base_model:" not in text, "a local folder is nobody's base"
        assert "fine-tuned from base by" in text
        assert ModelCard(text).data.license == "other"


def test_texts_of_the_data_stay_texts(tokens: Path, tmp_path: Path) -> None:
    origin, store = make_origin(
        tmp_path, tokens, gen_sentences=[BAD, "```\nout of the fence"], wandb_name=BAD
    )
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    cell = BAD.replace('"', '""')
    (sweep / "trials.csv").write_text(
        f'number,state,value,best_epoch,is_default,params.x\n0,completed,1.5,2,True,"{cell}"\n'
    )
    text = make_card(replace(origin, sweep=sweep, home=Path(BAD.replace("/", ""))), store)
    found = tables(text)
    assert len(found["The sweep"]) == 2
    assert len(found["The sweep"][1]) == len(found["The sweep"][0]) == 6
    html = (
        MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    )
    assert "<script" not in html
    assert 'href="http://evil' not in html
    assert html.count("<pre>") == 2, "nothing ends the fence of the options before its end"
    fence = text.split("All options</summary>\n\n")[1].split("yaml")[0]
    assert (
        yaml.safe_load(text.split(f"{fence}yaml\n")[1].split(f"\n{fence}\n")[0])["gen_sentences"]
        == origin.config.gen_sentences
    )  # pyright: ignore


def test_the_leaderboard_has_ten_and_the_default(tokens: Path, tmp_path: Path) -> None:
    origin, store = make_origin(tmp_path, tokens)
    rows = [
        f"{n},{'completed' if n % 2 else 'stopped'},{20 - n},1.25,{n == 2},0.{n}" for n in range(14)
    ]
    (tmp_path / "trials.csv").write_text(
        "\n".join(
            ["number,state,value,best_epoch,is_default,params.lr", *rows, "14,poison,,,False,1"]
        )
    )
    found = tables(make_card(replace(origin, sweep=tmp_path), store))["The sweep"]
    assert found[0] == ["rank", "trial", "val\\_loss", "epoch", "state", "lr"]
    assert [row[1] for row in found[1:]] == [
        "13",
        "11",
        "9",
        "7",
        "5",
        "3",
        "1",
        "12",
        "10",
        "8",
        "2 (default)",
    ]
    assert [row[0] for row in found[1:]] == [*(str(n) for n in range(1, 11)), "13"]
    assert found[1] == ["1", "13", "7", "1.25", "completed", "0.13"]


@pytest.mark.parametrize("gone", [True, False])
def test_data_that_is_gone_or_has_changed_is_only_named(
    tokens: Path, tmp_path: Path, gone: bool
) -> None:
    origin, store = make_origin(tmp_path, tokens, same_data=False)
    text = make_card(origin, None if gone else store)
    assert (
        "The token file tokens.hdf5, which is not as it was then; content 0123456789abcdef." in text
    )
    assert "Data" not in tables(text)


def test_cards_of_mere_weights_and_of_random_beginnings(tokens: Path, tmp_path: Path) -> None:
    text = make_card(Origin("sesame/csm-1b"), None, "transformers")
    assert (
        "weights for transformers, converted from"
        " [sesame/csm-1b](https://huggingface.co/sesame/csm-1b) by csm-ft." in text
    )
    assert not tables(text)
    origin, store = make_origin(tmp_path, tokens, train_from_scratch=True)
    text = make_card(origin, store, base="")
    assert "trained from random weights by csm-ft" in text
    assert ModelCard(text).data.base_model is None


def test_adapters_are_adapters(tokens: Path, tmp_path: Path) -> None:
    origin, store = make_origin(tmp_path, tokens, method="lora")
    data = ModelCard(make_card(origin, store, "adapter")).data.to_dict()
    assert (data["library_name"], data["base_model_relation"], data["base_model"]) == (
        "peft",
        "adapter",
        "sesame/csm-1b",
    )
    assert "lora" in data["tags"]
