"""What every page here has in common.

Templates, and scripts and styles that stand in the page itself.
"""

import base64
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def environment() -> Environment:
    """Return the templates of this package; everything put into them is escaped."""
    made = Environment(
        loader=PackageLoader("csm_ft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["short"] = short
    return made


def template_text(environment: Environment, *names: str) -> str:
    """Return files of the templates folder, one after the other."""
    assert environment.loader is not None
    return "\n".join(environment.loader.get_source(environment, name)[0] for name in names)


def style(environment: Environment) -> Markup:
    """Return the style sheet of all pages."""
    return Markup(template_text(environment, "page.css"))  # noqa: S704 - a file of this package


def script(text: str) -> tuple[Markup, str]:
    """Return a script and its hash for the content security policy.

    Which lets nothing but these scripts run.
    """
    assert "</script" not in text, "would end its own element"
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    policy = f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
    return Markup(text), policy  # noqa: S704 - files of plotly and of this package


def short(value: Any) -> str:
    """Write a parameter or a count: floats by four digits, words as they are."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
    return str(value)
