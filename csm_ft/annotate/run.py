"""The program: find dialogues, hear both channels, write the words of each as it is done."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from csm_ft.annotate.align import align
from csm_ft.annotate.config import AnnotateConfig
from csm_ft.annotate.dialogues import Dialogue, open_dialogues, place_words
from csm_ft.annotate.result import PROGRAM, remove_own, write_words
from csm_ft.annotate.sounds import list_sounds
from csm_ft.atomic import exclusive, write_whole
from csm_ft.console import console
from csm_ft.data.rows import Rejection, Word
from csm_ft.errors import DataError
from csm_ft.evaluate.recognise import Word as HeardWord
from csm_ft.segment.hearing import Hearing, open_timed_recogniser, recogniser_facts
from csm_ft.segment.speech import check_voice_activity, find_loud, find_speech
from csm_ft.segment.write import plural

_REST_SEC = 0.1  # behind the last block that is heard
_LEAST_FIT = 0.3  # of a transcript's letters that are heard; below, it is of another sound


def annotate(config: AnnotateConfig) -> None:
    """Write a .json with the words of each dialogue, and a summary.

    The same command continues: what is written stays, what was heard of a file is not heard again.
    Raises ConfigError, MachineError, and DataError where not one dialogue has words.
    """
    if config.voice_activity == "silero":
        check_voice_activity()
    path = Path(config.path)
    sounds = config.part.take(list_sounds(path))
    places = place_words(config, sounds)
    recogniser = open_timed_recogniser(config.asr, config.language, config.device, "annotate")
    facts = recogniser_facts(config.asr, config.language, recogniser)
    made_by = {
        "program": PROGRAM,
        "recogniser": recogniser.name,
        "language": config.language,
        "voice_activity": config.voice_activity,
    }
    folder = Path(f"{path}.parts")
    busy = f"{path}: another process annotates this share; wait, or give each a --shard of its own"
    with exclusive(folder / f"lock{config.part.suffix}", busy):
        problems: list[Rejection] = []
        dialogues, counts = open_dialogues(config, places, made_by, problems)
        recordings = [side for one in dialogues for side in one.sides]
        finder = find_loud if config.voice_activity == "energy" else find_speech
        energy = [] if config.voice_activity == "silero" else ["energy"]
        hearing = Hearing(folder, [*facts, *energy], recordings, finder, problems=problems)
        of_side = {side: one for one in dialogues for side in one.sides}
        waiting = Counter({one.sound: len(one.sides) for one in dialogues})
        try:
            for side in hearing.hear_all(recogniser) if recordings else ():
                dialogue = of_side[side]
                waiting[dialogue.sound] -= 1
                if waiting[dialogue.sound]:
                    continue
                is_written = _write(dialogue, hearing)
                counts["written"] += is_written
                if not is_written:
                    remove_own(dialogue.words_path)
        except KeyboardInterrupt:
            _tell("interrupted; the same command continues")
            raise
    _finish(config, counts, problems)


def _write(dialogue: Dialogue, hearing: Hearing) -> bool:
    """Write the words of a dialogue; False, with the reason noted, where it has none."""
    sides = dialogue.sides
    if any(hearing.heard_sec(side) < side.duration_sec - _REST_SEC for side in sides):
        return False  # it could not be read to its end, which is noted
    stretches = [hearing.stretches(side) for side in sides]
    heard = [[word for one in of_side for word in one.words] for of_side in stretches]
    if not any(heard):
        for side in sides:
            hearing.has_words(side)  # notes what it is instead
        return False
    facts = dict(dialogue.made_by)
    known = [word.probability for of_side in heard for word in of_side if word.probability]
    if known:
        facts["mean_probability"] = round(sum(known) / len(known), 3)
    if not dialogue.turns:
        words = [_word(word, place) for place, of_side in enumerate(heard) for word in of_side]
        write_words(dialogue.words_path, words, facts)
        return True
    aligned = [
        align(dialogue.turns, of_side, place, sides[place].duration_sec)
        for place, of_side in enumerate(stretches)
    ]
    share = sum(one.num_heard for one in aligned) / max(1, sum(one.num_letters for one in aligned))
    if share < _LEAST_FIT:
        hearing.reject(
            sides[0],
            f"of the letters of its transcript {share:.0%} are heard: it is of another sound or in"
            " another order, its channels are swapped, or the recogniser does not know the"
            " language; listen to it",
        )
        return False
    words = [word for one in aligned for word in one.words]
    write_words(dialogue.words_path, words, {**facts, "letters_heard": round(share, 3)})
    return True


def _word(word: HeardWord, speaker: int) -> Word:
    return Word(word.text.strip(), word.start_sec, max(word.start_sec, word.end_sec), speaker)


def _finish(config: AnnotateConfig, counts: Counter[str], problems: Sequence[Rejection]) -> None:
    """Say what was done, and write the reasons for what was not."""
    failures = Path(f"{config.path}.failures{config.part.suffix}.jsonl")
    if problems:
        write_whole(failures, "".join(f"{one.to_json()}\n" for one in problems))
        _tell(f"{failures}: {plural(len(problems), 'file')} without words, each with its reason")
        for problem in problems[:12]:
            _tell(f"  {problem}")
    else:
        failures.unlink(missing_ok=True)
    if counts["theirs"]:
        _tell(
            f"{plural(counts['theirs'], 'file')} had words that another program or a person made:"
            " they are kept (--overwrite replaces them)"
        )
    where = f"in {config.words_folder}" if config.words_folder else "beside the sounds"
    _tell(
        f"{plural(counts['written'], 'dialogue')} annotated {where}, {counts['ours']} before this"
    )
    if not counts["written"] + counts["ours"] + counts["theirs"]:
        raise DataError(f"{config.path}: no dialogue has words; the reasons stand above")
    words = f" --words_folder {shlex.quote(config.words_folder)}" if config.words_folder else ""
    _tell(f"next: python pretokenize.py --train_data {shlex.quote(config.path)}{words}")


def _tell(line: str) -> None:
    console.print(line, markup=False)
