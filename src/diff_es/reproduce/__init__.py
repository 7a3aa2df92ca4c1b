"""MAKE the paper's tables again: small on the shipped model, or with the paper's own model and settings."""

from __future__ import annotations

import diff_es.reproduce.tables as _tables  # registers them
from diff_es.reproduce.expect import Expectation as Expectation
from diff_es.reproduce.main import SCALES as SCALES
from diff_es.reproduce.main import Reproduced as Reproduced
from diff_es.reproduce.main import reproduce as reproduce
from diff_es.reproduce.result import TableResult as TableResult
from diff_es.reproduce.table import tables as tables

del _tables
