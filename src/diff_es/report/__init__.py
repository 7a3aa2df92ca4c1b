"""Records → one HTML file with pictures, readable offline and without JavaScript."""

from __future__ import annotations

from diff_es.report.content import FitnessPoint, Gallery, Provenance, ReportContent, WorstCase
from diff_es.report.latency import main_latency, speedup_at
from diff_es.report.table_content import (
    Claim,
    Plot,
    PlotPoint,
    Series,
    TableColumn,
    TableReport,
    TableRow,
    Value,
    Verdict,
    judged,
)
from diff_es.report.write import write_report

__all__ = [
    "Claim",
    "FitnessPoint",
    "Gallery",
    "Plot",
    "PlotPoint",
    "Provenance",
    "ReportContent",
    "Series",
    "TableColumn",
    "TableReport",
    "TableRow",
    "Value",
    "Verdict",
    "WorstCase",
    "judged",
    "main_latency",
    "speedup_at",
    "write_report",
]
