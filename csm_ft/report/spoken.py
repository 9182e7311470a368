"""index.html of a folder of recordings.

Every prompt with its takes side by side, to listen to without a server.
"""

from pathlib import Path
from urllib.parse import quote

import soundfile

from csm_ft.atomic import write_whole
from csm_ft.report import templating
from csm_ft.report.data import read_takes
from csm_ft.report.listen import PLAYER_BYTES, Player, Row
from csm_ft.report.sound import load

PAGE_BYTES = 10_000_000


def build_index(folder: Path) -> Path:
    """Write `folder`/index.html from the recordings and the facts beside them, whole or not at all.

    And return its path.

    Recordings stand in the page itself, so that it can be sent to somebody; those beyond 10 MB are
    links to the files.
    """
    notes: list[str] = []
    rows: dict[tuple[object, ...], Row] = {}
    room_bytes = PAGE_BYTES
    for take in read_takes(folder, notes):
        player = Player("best", take.wav.name, take, quote(take.wav.name))
        row = rows.setdefault(
            (take.text, take.speaker, take.context), Row(take.text, take.speaker, take.context)
        )
        row.players[take.wav.name] = player
        try:
            sound = load(take.wav)
        except (OSError, soundfile.LibsndfileError) as error:
            notes.append(f"{take.wav.name}: not readable as audio ({error})")
            continue
        room_bytes -= len(sound.uri) + PLAYER_BYTES
        player.sound = sound if room_bytes >= 0 else None
    environment = templating.environment()
    script, script_hash = templating.script(templating.template_text(environment, "players.js"))
    page = environment.get_template("spoken.html.j2").render(
        title=folder.resolve().name,
        rows=list(rows.values()),
        notes=notes,
        style=templating.style(environment),
        script=script,
        script_hash=script_hash,
    )
    write_whole(folder / "index.html", page)
    return folder / "index.html"
