"""What every page has in common: templates, scripts and styles in the page, words for numbers."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> "Environment":
    """Return the templates of this package; everything put into them is escaped."""
    # Here: a sweep uses the words below, and no template.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("csm_ft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["short"] = short
    return made


def template_text(environment: "Environment", *names: str) -> str:
    """Return files of the templates folder, one after the other."""
    assert environment.loader is not None
    return "\n".join(environment.loader.get_source(environment, name)[0] for name in names)


def style(environment: "Environment") -> Markup:
    """Return the style sheet of all pages."""
    return Markup(template_text(environment, "page.css"))  # noqa: S704 - a file of this package


def script(text: str) -> tuple[Markup, str]:
    """Return a script and its hash for the content security policy, which lets no other run."""
    assert "</script" not in text, "would end its own element"
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    policy = f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
    return Markup(text), policy  # noqa: S704 - files of plotly and of this package


def json_for_script(value: Any) -> Markup:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    escaped = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(escaped)  # noqa: S704 - escaped right here


def short(value: Any) -> str:
    """Write a parameter or a count: floats by four digits, words as they are."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
    return str(value)


def number(value: float | None) -> str:
    """Write a validation metric."""
    return "–" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Write a difference of validation metrics."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def score(value: float) -> str:
    """Write a score of votes."""
    return f"{value:+.2f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Write seconds as a person would: 48 s, 4 min 12 s, 2 h 05 min."""
    if seconds is None:
        return "–"
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(text: str | None) -> datetime | None:
    """Read a time as ISO 8601 or as seconds since 1970; None if it is neither."""
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
