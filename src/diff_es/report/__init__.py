"""Records → one HTML file with pictures, readable offline and without JavaScript."""

from __future__ import annotations

from diff_es.report.content import FitnessPoint, ReportContent
from diff_es.report.write import write_report

__all__ = ["FitnessPoint", "ReportContent", "write_report"]
