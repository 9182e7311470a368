"""index.html of a folder of samples: every prompt with its takes side by side."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from csm_ft.atomic import write_whole
from csm_ft.report import templating
from csm_ft.report.data import read_takes
from csm_ft.report.listen import PLAYER_BYTES, Player, Row, load_player

PAGE_BYTES = 10_000_000


def build_index(folder: Path, title: str = "") -> Path:
    """Write `folder`/index.html from the samples and the facts beside them, and return its path.

    Its title is `title`, or the folder's name.
    It needs no server, and is replaced as a whole. Sounds stand in the page itself, so that it can
    be sent to somebody; those beyond 10 MB are links to the files.
    """
    notes: list[str] = []
    players = [
        Player("best", take.file.name, take, quote(take.file.name) if take.wav else "")
        for take in read_takes(folder, notes)
    ]
    page = render(players, title or folder.resolve().name, notes)
    write_whole(folder / "index.html", page)
    return folder / "index.html"


def render(players: Iterable[Player], title: str, notes: list[str]) -> str:
    """Return the page of players, those of one prompt side by side; `notes` are what is wrong."""
    rows: dict[tuple[object, ...], Row] = {}
    space_bytes, has_sound = PAGE_BYTES, False
    for player in players:
        take = player.take
        key = (take.text, take.speaker, take.context)
        row = rows.setdefault(key, Row(take.text, take.speaker, take.context))
        row.players[player.who] = player
        has_sound |= take.wav is not None
        sound = load_player(player, notes) if take.wav else None
        if sound is not None:
            space_bytes -= len(sound.uri) + PLAYER_BYTES
            player.sound = sound if space_bytes >= 0 else None
    environment = templating.environment()
    script, script_hash = templating.script(templating.template_text(environment, "players.js"))
    return environment.get_template("spoken.html.j2").render(
        title=title,
        rows=list(rows.values()),
        has_sound=has_sound,
        notes=notes,
        style=templating.style(environment),
        script=script,
        script_hash=script_hash,
    )
