"""Files of the Hugging Face hub, by `owner/name`; every message about it is written here."""

import re
from pathlib import Path

from httpx2 import HTTPError  # the client of huggingface_hub, which lets its errors through
from huggingface_hub import auth_check, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
)

from csm_ft.errors import GatedError, HubError


def is_hub_name(name: str) -> bool:
    """Tell a hub name (owner/name) from a path."""
    is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name, re.ASCII) is not None
    return is_name and not Path(name).exists()


def cached(name: str, file: str) -> Path | None:
    """Return a file of a repository from the hub's cache on this disk, or None."""
    found = try_to_load_from_cache(name, file)
    return Path(found) if isinstance(found, str) else None


def has_weights(name: str) -> bool:
    """Tell whether the weights of a repository are in the hub's cache on this disk."""
    return any(cached(name, file) for file in ("model.safetensors", "model.safetensors.index.json"))


def access_problem(name: str) -> str:
    """Ask the hub whether this user may download a repository; return what stops it, or ""."""
    try:
        auth_check(name)
    except GatedRepoError:
        return (
            f"gated: accept its terms at https://huggingface.co/{name} and run `hf auth login` (or"
            " set HF_TOKEN in .env)"
        )
    except (HTTPError, OSError, ValueError) as error:
        return f"the hub cannot be reached ({type(error).__name__}); it is needed once"
    return ""


def fetch(name: str, file: str, *, otherwise: str) -> Path:
    """Return the local path of a file of a repository; downloads it if it is not cached.

    Raises GatedError or HubError; `otherwise` is what the user can do instead.
    """
    try:
        return Path(hf_hub_download(name, file))
    except GatedRepoError as error:
        raise GatedError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name} and run `hf auth"
            f" login` (or set HF_TOKEN in .env), or {otherwise}"
        ) from error
    except (HfHubHTTPError, EntryNotFoundError, OSError, ValueError) as error:
        raise HubError(
            f"{name} is not on this disk, and the hub cannot be reached for its {file}"
            f" ({type(error).__name__}); check the name and the network (HF_HUB_OFFLINE must not"
            f" be set), run `hf auth login` if it is private, or {otherwise}"
        ) from error


def fetch_if_present(name: str, file: str, *, otherwise: str) -> Path | None:
    """Return as `fetch` does, or None where the repository is known not to have the file."""
    try:
        return fetch(name, file, otherwise=otherwise)
    except HubError as error:
        cause = error.__cause__
        is_absent = isinstance(cause, EntryNotFoundError)
        if is_absent and not isinstance(cause, LocalEntryNotFoundError):
            return None
        raise
