"""What each bad input gets. The rows are in tests/bad_input, one module per topic; every row is a test.

After changing a row, write docs/bad-input.md anew: `python tests/test_bad_input.py` (from the repository's root).
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from bad_input.lab import Lab
from bad_input.table import CASES, Case, page
from diff_es.bank import Pruned
from diff_es.errors import DiffESError
from diff_es.pipelines import load_pipeline
from diff_es.recipe import Recipe
from run.tiny_run import finished_run

PAGE = Path(__file__).parents[1] / "docs" / "bad-input.md"


@pytest.fixture
def lab(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path, finished_run(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.given)
def test_each_row_happens(lab: Lab, row: Case) -> None:
    if not row.message:
        row.provoke(lab)
        return
    with pytest.raises(DiffESError) as caught:
        row.provoke(lab)
    pattern = ".*".join(map(re.escape, row.message.split("…")))
    said = re.sub(r"\s+", " ", str(caught.value))
    assert re.fullmatch(pattern, said, re.DOTALL), said


def test_the_page_holds_these_rows() -> None:
    assert PAGE.read_text() == page(), "write the page anew: python tests/test_bad_input.py"


def test_the_finished_run_was_not_touched(lab: Lab) -> None:
    """Runs last: every case worked on copies."""
    assert Pruned.open(lab.finished.folder / "pruned").info.schedule.levels == lab.finished.result.search.levels
    assert copy.deepcopy(lab.finished.recipe) == Recipe.read(lab.finished.folder / "recipe.yaml")
    assert load_pipeline(str(lab.model), device="cpu").transformer is not None


if __name__ == "__main__":
    PAGE.write_text(page())
