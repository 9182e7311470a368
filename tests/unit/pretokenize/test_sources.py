"""Several sources of training clips with weights."""

import json
from pathlib import Path

import pytest

import pretokenize
from csm_ft.datasets.sources import Source, parse_sources
from csm_ft.errors import ConfigError
from tests.helpers.pretokenizing import FakeEncoder, Work


def test_a_path_that_exists_is_that_path(tmp_path: Path) -> None:
    odd, plain = tmp_path / "a,b:3", tmp_path / "c.jsonl"
    odd.touch()
    plain.touch()
    assert parse_sources(str(odd)) == [Source(odd)]
    assert parse_sources(f"{odd}:2,{plain}") == [Source(odd, 2.0), Source(plain)]
    assert parse_sources(f"{plain}:0.5") == [Source(plain, 0.5)]
    assert parse_sources("gone:x") == [Source(Path("gone:x"))]


@pytest.mark.parametrize("names", ["a:0,b", "a:-1", "a:nan,b", "a,,b", "a:2,a"])
def test_mistakes_are_named(names: str) -> None:
    with pytest.raises(ConfigError, match=r"above 0|empty name|a twice"):
        parse_sources(names)


def test_weights_are_shares_of_the_draws(work: Work, encoder: FakeEncoder) -> None:
    val = work.clips([0.9], first=7)
    first = work.clips([1.0], conversation="1")
    second = work.clips([0.5, 0.7, 0.8], first=1, conversation="1")
    for name, rows in (("a", first), ("b", second), ("val", val)):
        (work.folder / f"{name}.json").write_text(json.dumps(rows))
    sources = f"{work.folder / 'a.json'}:2,{work.folder / 'b.json'}"
    argv = [*work.command(), "--train_data", sources, "--val_data", str(work.folder / "val.json")]
    assert pretokenize.main(argv) == 0
    train = work.store().splits["train"]
    clips = [train.clip(i) for i in range(4)]
    assert [clip.weight for clip in clips] == pytest.approx([8 / 3, 4 / 9, 4 / 9, 4 / 9], abs=1e-5)
    assert len({clip.conversation for clip in clips}) == 2
