"""What was heard is kept, and found again only while nothing that decides it has changed."""

import os
from pathlib import Path

from csm_ft.evaluate.recognise import Word
from csm_ft.segment.hear import Block, Recording
from csm_ft.segment.parts import Part, block_from_json, block_to_json
from csm_ft.segment.speech import Stretch

WORDS = (Word(" Grüße,", 1.1, 1.7, 0.93), Word(" du", 1.7, 2.25, None))
BLOCK = Block(0.0, 12.5, (Stretch(1.1, 2.25, WORDS, "de"), Stretch(3.0, 4.0)), -23.4)


def part(folder: Path, *facts: str, channel: str = "mix") -> Part:
    sound = folder / "a.wav"
    if not sound.exists():
        sound.write_bytes(b"sound")
    own = Recording(sound, "a", 12.5, channel)  # pyright: ignore[reportArgumentType]
    return Part(folder, "words", own, facts)


def test_blocks_are_read_as_they_were_written(tmp_path: Path) -> None:
    own = part(tmp_path, "tiny")
    assert own.read() == []
    own.append(block_to_json(BLOCK))
    own.append(block_to_json(BLOCK))
    assert [block_from_json(value) for value in part(tmp_path, "tiny").read()] == [BLOCK, BLOCK]


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    own = part(tmp_path)
    own.append([1])
    whole = own.path.read_bytes()
    own.path.write_bytes(whole + b'[2, "hal')
    assert own.read() == [[1]]
    own.append([3])
    assert own.read() == [[1], [3]]


def test_whatever_decides_what_is_heard_names_another_file(tmp_path: Path) -> None:
    before = part(tmp_path, "tiny").path
    assert part(tmp_path, "tiny").path == before
    assert part(tmp_path, "small").path != before
    assert part(tmp_path, "tiny", channel="left").path != before
    os.utime(tmp_path / "a.wav", ns=(1, 1))
    assert part(tmp_path, "tiny").path != before
