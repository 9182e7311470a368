"""What options, the environment and W&B's settings files say about W&B. Does not import it."""

import configparser
import netrc
import os
import socket
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from csm_ft.config.train import SHIPPED_WANDB_PROJECTS
from csm_ft.console import console

# Values of WANDB_MODE and of `mode` in a settings file, in the words of the option.
_MODES = {"disabled": "off", "offline": "offline", "dryrun": "offline"}
_MODES |= dict.fromkeys(("online", "run", "shared"), "online")
_STRICTEST_FIRST = ("off", "offline", "online")
_TRY_SEC = 5.0  # for a connection
_SECTION = "default"  # the only section of W&B's settings files


def choose_wandb_mode(wanted: str) -> str:
    """Return online, offline or off; "auto" is what W&B's own settings say.

    Of the option and WANDB_MODE the stricter counts: who forbids an upload must not be overruled;
    where the two differ, a line says which counted. With "auto" and no settings it is online with a
    key, by WANDB_API_KEY or wandb login, else offline.
    """
    variable = os.environ.get("WANDB_MODE", "")
    by_environment = _MODES.get(variable.lower(), "")
    if wanted == "auto":
        by_file = _MODES.get(_read_setting("mode").lower(), "")
        has_key = bool(os.environ.get("WANDB_API_KEY")) or _is_logged_in()
        return by_environment or by_file or ("online" if has_key else "offline")
    mode = next(mode for mode in _STRICTEST_FIRST if mode in (wanted, by_environment))
    if by_environment and by_environment != wanted:
        console.print(
            f"W&B is {mode}: of --wandb {wanted} and WANDB_MODE={variable} the stricter counts",
            markup=False,
        )
    return mode


def choose_reachable_wandb_mode(wanted: str) -> str:
    """Return the mode of choose_wandb_mode, but offline where the server takes no connection.

    One short try says so at once; W&B itself waits half a minute, in every run of a sweep.
    """
    mode = choose_wandb_mode(wanted)
    if mode != "online" or _is_reachable():
        return mode
    console.print(
        f"[yellow]W&B: {_server().hostname} takes no connection; recording offline, send later"
        " with `wandb sync`[/]"
    )
    return "offline"


def choose_wandb_project(wanted: str) -> str | None:
    """Return the project of a run; None leaves it to W&B's own settings.

    WANDB_PROJECT counts always, a settings file where the option was left at its default.
    """
    if os.environ.get("WANDB_PROJECT"):
        return None
    is_default = wanted in SHIPPED_WANDB_PROJECTS
    return None if is_default and _read_setting("project") else wanted


def _server() -> SplitResult:
    """Return the address of the server that is used."""
    given = os.environ.get("WANDB_BASE_URL") or _read_setting("base_url")
    return urlsplit(given or "https://api.wandb.ai")


def _is_reachable() -> bool:
    """Tell whether the server, or the proxy before it, takes a connection."""
    server = _server()
    proxy = getproxies().get(server.scheme, "")
    is_direct = not proxy or proxy_bypass(server.hostname or "")
    target = server if is_direct else urlsplit(proxy if "//" in proxy else f"//{proxy}")
    if not target.hostname:  # W&B itself says what is wrong with it
        return True
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        socket.create_connection((target.hostname, port), _TRY_SEC).close()
    except OSError:
        return False
    return True


def _is_logged_in() -> bool:
    """Tell whether `wandb login` has left a key for the server that is used."""
    path = os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())
    host = _server().hostname or ""
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _read_setting(name: str) -> str:
    """Return a value from W&B's settings files, or "".

    That of the working folder counts before the user's, as W&B itself has it.
    """
    folder = ".wandb" if Path(".wandb").exists() else "wandb"
    user = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([user / "settings", Path(folder, "settings")], encoding="utf-8")
    except (OSError, ValueError, configparser.Error):  # W&B itself says what is wrong with it
        return ""
    return parser.get(_SECTION, name, fallback="")
