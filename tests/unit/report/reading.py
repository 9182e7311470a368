"""Helpers that read a page as its readers do."""

import html
import json
import re
from pathlib import Path
from typing import Any

from csm_ft.report.page import build_report

NASTY = "</script><script>alert(1)</script> & \"quotes\" 'too'"

Sweep = tuple[Path, dict[str, Any]]


def build(out: Path) -> str:
    return build_report(out).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The page without its scripts, styles and recordings."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text)))


def figures(text: str) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL
    )
    assert found
    return {figure["id"]: figure for figure in json.loads(found[1])}


def scripts(text: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
