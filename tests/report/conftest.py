"""The content that the tests of the report share."""

from __future__ import annotations

import pytest
from report_content import small_content

from diff_es.report import ReportContent


@pytest.fixture(scope="session")
def content() -> ReportContent:
    return small_content()
