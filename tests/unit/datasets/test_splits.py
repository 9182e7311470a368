"""Splits: disjoint, seeded, whole conversations."""

from collections import Counter, defaultdict
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.data.rows import Row
from csm_ft.datasets.splits import Parting, SplitPlan, split_rows


def plan(by: str = "speaker", *, val: float = 0.2, test: float = 0.0, seed: int = 0) -> SplitPlan:
    return SplitPlan(by, {"val": val, "test": test}, seed)  # type: ignore[arg-type]


def row(speaker: str, text: str = "A.", conversation: str = "", **tags: str) -> Row:
    return Row(
        where="",
        path=Path("a.wav"),
        text=text,
        speaker=speaker,
        start_sec=None,
        end_sec=None,
        conversation=conversation,
        tags={"source": "s", **tags},
    )


def split(rows: list[Row], wanted: SplitPlan) -> Parting:
    """Split rows of which each has a file of its own."""
    return split_rows(rows, [str(index) for index in range(len(rows))], wanted)


ROWS = st.lists(
    st.builds(
        row,
        st.sampled_from("abcdefgh"),
        st.sampled_from(["One.", "one", "Two!", "Three", "Four", "Five"]),
        st.sampled_from(["", "", "", "c1", "c2"]),
        source=st.sampled_from(["s", "t"]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60)
@given(ROWS, st.sampled_from(["speaker", "sentence"]), st.integers(0, 5))
def test_nothing_stands_on_two_sides(rows: list[Row], by: str, seed: int) -> None:
    rows = [
        row(
            **{
                "speaker": f"{r.tags['source']}-{r.speaker}",
                "text": r.text,
                "conversation": r.conversation,
                "source": r.tags["source"],
            }
        )
        for r in rows
    ]
    found = split(rows, plan(by, val=0.2, test=0.2, seed=seed))
    sides: dict[str, set[str]] = defaultdict(set)
    for one, name in zip(rows, found.splits, strict=True):
        key = one.speaker if by == "speaker" else one.text.lower().strip(".!")
        sides[f"name {key}"].add(name)
        if one.conversation:
            sides[f"conversation {one.conversation}"].add(name)
    assert all(len(names - {""}) <= 1 for names in sides.values())


@given(st.integers(0, 20))
def test_choice_ignores_the_order_of_rows(seed: int) -> None:
    rows = [row(f"{n % 9}", f"Text {n}", gender="fm"[n % 2]) for n in range(40)]
    found = dict(zip(map(id, rows), split(rows, plan(seed=seed)).splits, strict=True))
    shuffled = Random(seed).sample(rows, len(rows))
    again = dict(zip(map(id, shuffled), split(shuffled, plan(seed=seed)).splits, strict=True))
    assert again == found


def test_seed_changes_the_choice() -> None:
    rows = [row(str(n)) for n in range(20)]
    assert len({tuple(split(rows, plan(seed=seed)).splits) for seed in range(5)}) > 1


def test_both_genders_stand_on_both_sides() -> None:
    rows = [row(str(n), gender="female" if n % 2 else "male") for n in range(24)]
    for seed in range(10):
        splits = split(rows, plan(val=1 / 6, test=1 / 6, seed=seed)).splits
        counts = Counter((name, one.tags["gender"]) for name, one in zip(splits, rows, strict=True))
        assert counts["val", "male"] == counts["val", "female"] == 2
        assert counts["test", "male"] == counts["test", "female"] == 2


def test_every_set_is_split_by_itself() -> None:
    rows = [row(f"{source}-{n}", source=source) for source in "xyz" for n in range(10)]
    splits = split(rows, plan()).splits
    held = Counter(
        one.tags["source"] for one, name in zip(rows, splits, strict=True) if name == "val"
    )
    assert held == {"x": 2, "y": 2, "z": 2}


def test_one_speaker_gets_no_split() -> None:
    rows = [row("only", f"Text {n}") for n in range(5)] + [
        row(f"t{n}", source="t") for n in range(5)
    ]
    found = split(rows, plan())
    assert found.whole == {"s": 5}
    assert found.splits[:5] == [""] * 5
    assert set(found.splits[5:]) == {"train", "val"}


def test_one_file_joins_its_speakers() -> None:
    rows = [row("a"), row("b"), row("c"), row("d")]
    splits = split_rows(rows, ["call", "call", "x", "y"], plan(val=0.25)).splits
    assert splits[0] == splits[1]
    assert Counter(splits) == {"train": 3, "val": 1}


def test_a_large_speaker_is_not_held_out() -> None:
    rows = [row("large")] * 50 + [row(f"{n}") for n in range(10)]
    for seed in range(10):
        splits = split(rows, plan(val=0.1, seed=seed)).splits
        assert set(splits[:50]) == {"train"}
        assert splits.count("val") == 6


def test_a_share_far_from_the_wanted_is_told() -> None:
    rows = [row("a", "One."), row("b", "Two.")]
    (note,) = split(rows, plan("sentence", val=0.1)).notes
    assert "val is 50% of its rows, not 10%" in note


def test_too_few_speakers_for_a_test_are_told() -> None:
    found = split([row("a"), row("b")], plan(val=0.4, test=0.4))
    assert found.notes == ["s: has too few speakers for a split test"]
    assert sorted(found.splits) == ["train", "val"]
