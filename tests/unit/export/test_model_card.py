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

from csm_ft.data.split import Store
from csm_ft.data.token_file import open_store
from csm_ft.export.model_card import model_card
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.exporter import Exportable, Exporter, Proof
from csm_ft.runs.checkpoint import TrainState
from csm_ft.runs.folder import RunFolder, SweepFolder
from csm_ft.runs.source import Source
from tests.helpers.splits import make_split

BAD = 'a|b <script>alert(1)</script> `x` *y* [z](http://evil) \n| --- | "'
ROWS = [
    {"kind": "val", "step": 0, "val_loss": 14.5, "val_c0": 9.0, "val_depth": 5.5},
    {"kind": "train", "step": 1, "loss": 3.0},
    {"kind": "val", "step": 50, "val_loss": 5.8625, "val_c0": 2.4, "val_depth": 3.4625},
    {"kind": "val", "step": 60, "val_loss": 6.1, "val_c0": 2.5, "val_depth": 3.6},
]


class Plain(Exporter):
    """Weights for nobody."""

    library, summary, tags = "plain", "Plain weights", ("speech",)
    pipeline_tag = "text-to-speech"

    @property
    def licence(self) -> str:
        return "apache-2.0" if self.base == "sesame/csm-1b" else ""

    def write(self, folder: Path) -> None:
        raise NotImplementedError

    def read_back(self, folder: Path) -> Proof:
        raise NotImplementedError

    def snippet(self) -> str:
        return "```python\nload()\n```"


class Adapters(Plain):
    """Adapters for nobody."""

    library, tags = "peft", ("speech", "lora")


def make_source(
    folder: Path, tokens: Path, *, same_data: bool = True, **options: Any
) -> tuple[Source, Store]:
    run = folder / "secret-place" / "my-run"
    run.mkdir(parents=True)
    store = open_store(tokens)
    fingerprint = store.info.content_fingerprint if same_data else "0123456789abcdef"
    (run / "env.json").write_text(json.dumps({"data_fingerprint": fingerprint}))
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (run / "metrics.jsonl").write_text(lines + '{"torn')
    base = {"model_name_or_checkpoint_path": "sesame/csm-1b", **options}
    config = CsmConfig(data=str(tokens), output_dir=str(run), **base)
    best = {"val_loss": 5.8625, "step": 50, "examples": 400, "epoch": 2.5}
    state = TrainState(step=50, epoch=2.5, best=best)
    weights = str(run / "checkpoints/best")
    return Source(weights, run, RunFolder(run), None, config, state), store


def make_card(source: Source, store: Store | None, kind: type[Exporter] = Plain) -> str:
    weights = Exportable(source.weights, source.label, source.base, source.config, store)
    proof = Proof("a reference", ["read back by a reference"])
    return model_card(source, store, CsmFamily(), kind(weights), proof)


def make_sweep(source: Source, folder: Path, *lines: str) -> Source:
    folder.mkdir(exist_ok=True)
    (folder / "trials.csv").write_text("\n".join(lines) + "\n")
    return replace(source, sweep=SweepFolder(folder))


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


def test_front_matter_is_what_the_hub_reads(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens)
    assert ModelCard(make_card(source, store)).data.to_dict() == {
        "base_model": "sesame/csm-1b",
        "library_name": "plain",
        "license": "apache-2.0",
        "pipeline_tag": "text-to-speech",
        "tags": ["speech", "csm-ft"],
    }


def test_card_says_what_the_weights_are(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens)
    text = make_card(source, store)
    assert "# my-run\n" in text
    assert (
        "Plain weights: fine-tuned from [sesame/csm-1b](https://huggingface.co/sesame/csm-1b) by"
        " csm-ft (method full), at step 50 (epoch 2.50).\n" in text
    )
    for words in ("load()", "- read back by a reference\n", "consent"):
        assert words in text


def test_card_describes_the_data(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens)
    text = make_card(source, store)
    assert [row[:2] for row in tables(text)["Data"][1:]] == [["train", "24"], ["val", "4"]]
    assert f"Token file tokens.hdf5; content {store.info.content_fingerprint}." in text
    assert "- codec melrvq, 8 codebooks of 256 ids, 16000 Hz, 12.5 frames per second" in text
    assert "Speakers: <code>nora</code>" in text


def test_ten_speakers_are_named(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens)
    split = make_split([3] * 12, speakers=[f"s{i:02d}" for i in range(12)])
    text = make_card(source, replace(store, splits={"train": split, "val": split}))
    assert "<code>s09</code>, ...\n" in text
    assert "s10" not in text


def test_scores_are_those_of_the_weights(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens)
    text = make_card(source, store)
    assert tables(text)["Scores"] == [
        ["weights", "val\\_loss", "c0", "depth"],
        ["before training", "14.5000", "9.0000", "5.5000"],
        ["these weights: step 50, epoch 2.50", "5.8625", "2.4000", "3.4625"],
    ]
    yardstick = CsmFamily().yardstick
    assert f"in {yardstick.unit} ({yardstick.formula}); lower is better." in text


def test_weights_after_the_best_say_so(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens)
    assert source.state is not None
    later = replace(source, state=replace(source.state, step=60, epoch=3.0))
    assert [row[0] for row in tables(make_card(later, store))["Scores"][1:]] == [
        "before training",
        "these weights: step 60, epoch 3.00",
        "best of the run: step 50, epoch 2.50",
    ]


def test_all_options_are_listed(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens, learning_rate=1e-3)
    text = make_card(source, store)
    assert tables(text)["Configuration"][1:] == [
        ["<code>model\\_name\\_or\\_checkpoint\\_path</code>", "<code>sesame/csm-1b</code>"],
        ["<code>learning\\_rate</code>", "<code>0.001</code>"],
    ]
    options = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert options["learning_rate"] == 1e-3
    assert set(options) == set(CsmConfig.model_fields)


@pytest.mark.parametrize("kind", [Plain, Adapters])
def test_private_paths_are_cut(tokens: Path, tmp_path: Path, kind: type[Exporter]) -> None:
    source, store = make_source(
        tmp_path,
        tokens,
        gen_prompts=str(tmp_path / "prompts.json"),
        wandb_name="/secret-place/name",
        model_name_or_checkpoint_path=str(tmp_path / "secret-place" / "base"),
    )
    text = make_card(source, store, kind)
    for private in ("secret-place", str(tmp_path), str(tokens.parent), str(Path.cwd())):
        assert private not in text
    assert "base_model:" not in text, "a local folder is nobody's base"
    assert "fine-tuned from base by" in text
    assert ModelCard(text).data.license == "other"


def test_texts_of_the_data_are_escaped(tokens: Path, tmp_path: Path) -> None:
    sentences = [BAD, "```\nout of the fence"]
    source, store = make_source(tmp_path, tokens, gen_sentences=sentences, wandb_name=BAD)
    cell = BAD.replace('"', '""')
    source = make_sweep(
        replace(source, home=Path(BAD.replace("/", ""))),
        tmp_path / "sweep",
        "number,state,value,best_epoch,is_default,params.x",
        f'0,completed,1.5,2,True,"{cell}"',
    )
    text = make_card(source, store)
    found = tables(text)["The sweep"]
    assert [len(row) for row in found] == [6, 6]
    body = text.split("---\n", 2)[2]
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<script" not in html
    assert 'href="http://evil' not in html
    assert html.count("<pre>") == 2, "nothing ends the fence of the options before its end"
    fence = text.split("All options</summary>\n\n")[1].split("yaml")[0]
    options = text.split(f"{fence}yaml\n")[1].split(f"\n{fence}\n")[0]
    assert yaml.safe_load(options)["gen_sentences"] == [BAD.strip(), sentences[1]]


def test_ten_trials_and_the_default(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens)
    rows = [
        f"{n},{'completed' if n % 2 else 'stopped'},{20 - n},1.25,{n == 2},0.{n}" for n in range(14)
    ]
    header = "number,state,value,best_epoch,is_default,params.lr"
    source = make_sweep(source, tmp_path, header, *rows, "14,poison,,,False,1")
    text = make_card(source, store)
    found = tables(text)["The sweep"]
    assert "The first 10 of 14 trials, and the default's." in text
    assert found[0] == ["rank", "trial", "value", "epoch", "state", "lr"]
    best = ["13", "11", "9", "7", "5", "3", "1", "12", "10", "8", "2 (default)"]
    assert [row[1] for row in found[1:]] == best
    assert [row[0] for row in found[1:]] == [*(str(n) for n in range(1, 11)), "13"]
    assert found[1] == ["1", "13", "7", "1.25", "completed", "0.13"]


@pytest.mark.parametrize("gone", [True, False])
def test_changed_data_is_only_named(tokens: Path, tmp_path: Path, gone: bool) -> None:
    source, store = make_source(tmp_path, tokens, same_data=False)
    text = make_card(source, None if gone else store)
    changed = "The token file tokens.hdf5, which is not as it was then; content 0123456789abcdef."
    assert changed in text
    assert "Data" not in tables(text)


def test_weights_without_a_run_are_converted() -> None:
    text = make_card(Source("sesame/csm-1b"), None)
    name = "[sesame/csm-1b](https://huggingface.co/sesame/csm-1b)"
    assert f"Plain weights: converted from {name} by csm-ft.\n" in text
    assert not tables(text)


def test_random_beginnings_have_no_base(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens, train_from_scratch=True)
    text = make_card(source, store)
    assert "trained from random weights by csm-ft" in text
    assert ModelCard(text).data.base_model is None


def test_adapters_name_their_base(tokens: Path, tmp_path: Path) -> None:
    source, store = make_source(tmp_path, tokens, method="lora")
    data = ModelCard(make_card(source, store, Adapters)).data.to_dict()
    assert (data["library_name"], data["base_model_relation"]) == ("peft", "adapter")
    assert data["base_model"] == "sesame/csm-1b"
    assert "lora" in data["tags"]


def test_only_voices_need_consent() -> None:
    class Silent(Plain):
        pipeline_tag = "automatic-speech-recognition"

    assert "consent" not in make_card(Source("a/b"), None, Silent)
