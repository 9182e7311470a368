"""Speakers and sentences on both sides of a split."""

from csm_ft.data.overlap import Said, find_shared


def test_sentences_are_compared_by_their_words() -> None:
    clips = [
        Said(True, "anna", "It's eleven o'clock."),
        Said(False, "ben", "IT’S ELEVEN O'CLOCK"),
        Said(False, "ben", "Its eleven o'clock."),
    ]
    shared = find_shared(clips)
    assert (shared["speakers"].names, shared["speakers"].num_held_out) == ([], 1)
    assert (shared["sentences"].names, shared["sentences"].num_held_out) == (
        ["it's eleven o'clock"],
        2,
    )


def test_nothing_is_shared_without_a_split() -> None:
    assert find_shared([Said(True, "anna", "Hello.")]) == {}


def test_clips_without_a_speaker_share_none() -> None:
    clips = [Said(True, "", "Hello."), Said(False, "", "Bye.")]
    assert "speakers" not in find_shared(clips)
    shared = find_shared([*clips, Said(False, "ben", "Bye.")])["speakers"]
    assert (shared.names, shared.num_held_out) == ([], 1)


def test_long_lists_are_cut_for_people() -> None:
    clips = [Said(side, f"s{n}", "Hello.") for n in range(9) for side in (True, False)]
    line = find_shared(clips)["speakers"].describe("speakers")
    assert line.startswith("9 of 9 speakers that are held out stand in training, too: s0, s1")
    assert line.endswith("and 3 more")
