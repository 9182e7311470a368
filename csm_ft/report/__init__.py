"""One static page per sweep: what was found, what it sounds like, why.

Reads only the files of the sweep folder.
"""

from csm_ft.report.data import ReportError
from csm_ft.report.page import build_report

__all__ = ["ReportError", "build_report"]
