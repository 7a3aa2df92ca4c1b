"""The contents that the tests of the report share."""

from __future__ import annotations

import pytest
from report_content import small_content, small_table

from diff_es.report import ReportContent, TableReport


@pytest.fixture(scope="session")
def content() -> ReportContent:
    return small_content()


@pytest.fixture(scope="session")
def table_content() -> TableReport:
    return small_table()
