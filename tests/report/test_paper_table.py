"""Re-created tables: claims and their verdicts, ours beside the paper's, plots; and refused tables."""

from __future__ import annotations

import dataclasses
import math
from io import BytesIO

import pytest
from PIL import Image
from report_content import claim, small_table

from diff_es.errors import InputError
from diff_es.report import Plot, PlotPoint, Series
from diff_es.report.metric_names import metric_name, three_digits
from diff_es.report.paper_table import show_claims, table_grid, verdicts
from diff_es.report.plot_figures import describe_plot, draw_plot
from diff_es.report.theme import DARK, LIGHT


def test_a_metric_has_a_title_a_direction_and_a_format() -> None:
    name = metric_name("label_agreement")
    assert (name.title, name.higher_is_better, name.form) == ("Label agreement", True, ".1%")
    assert metric_name("unheard_of").higher_is_better is None


@pytest.mark.parametrize(
    ("ours", "interval", "verdict"),
    [
        ((3.0, 4.0), (0.4, 1.6), "holds"),
        ((4.0, 3.0), (-1.6, -0.4), "does not hold"),
        ((3.0, 3.1), (-0.5, 0.7), "cannot be told apart"),
        ((3.0, 4.0), None, "holds"),
        ((4.0, 3.0), None, "does not hold"),
        ((3.0, 3.0), None, "cannot be told apart"),
        ((math.nan, 3.0), None, "cannot be told apart"),
        ((3.0, 4.0), (math.nan, math.nan), "cannot be told apart"),
    ],
)
def test_a_claim_holds_where_its_interval_lies_above_zero(
    ours: tuple[float, float], interval: tuple[float, float] | None, verdict: str
) -> None:
    assert claim(ours, interval).verdict == verdict


def test_the_advantage_follows_the_direction() -> None:
    lower = claim((3.0, 4.0), None)
    assert lower.advantage == 1.0
    assert dataclasses.replace(lower, higher_is_better=True).advantage == -1.0


def test_claims_are_counted_and_shown() -> None:
    report = small_table()
    assert verdicts(report) == (
        "Of the paper’s claims that are tested here, 1 holds, 2 do not hold, 1 cannot be told apart."
    )
    shown = show_claims(report)[0]
    assert shown.paper == "Diff-ES 12.86, MosaicDiff 22.29 (FID)"
    assert shown.advantage == "+1, 95%: 0.4\u00a0to\u00a01.6"
    assert verdicts(dataclasses.replace(report, claims=())) == "No claim of the paper is tested here."


def test_an_interval_is_called_what_it_is() -> None:
    """The spread of timed runs is no 95 % interval."""
    report = small_table()
    column, *others = report.columns
    spread = dataclasses.replace(report, columns=(dataclasses.replace(column, interval_title="p10–p90"), *others))
    assert table_grid(spread).rows[1].cells[0].details[0] == "p10–p90: 1.60\u00a0to\u00a02.30"
    timed = claim((2100.5, 3211.0), (415.9, 4242.2), interval_title="p10–p90")
    shown = show_claims(dataclasses.replace(report, claims=(timed,)))[0]
    assert shown.advantage == "+1,110, p10–p90: 416\u00a0to\u00a04,242"


@pytest.mark.parametrize(
    ("values", "text"), [((0.01234, 0.5), "0.0123"), ((-999.4,), "-999"), ((999.6, 3.2), "1,000"), ((math.nan,), "nan")]
)
def test_three_digits_need_no_exponent(values: tuple[float, ...], text: str) -> None:
    assert format(values[0], three_digits(*values)) == text


def test_a_table_marks_the_best_within_each_group_and_never_the_papers() -> None:
    grid = table_grid(small_table())
    assert [row.cells[0].best for row in grid.rows] == [False] + [False, False, True] * 2
    assert grid.rows[1].cells[0].details == ("95%: 1.60\u00a0to\u00a02.30", "3 seeds", "paper: 20")
    assert grid.rows[1].cells[2].text == "not measured"
    assert grid.headings[0].detail == "lower is better; paper: FID, 50,000 images"
    assert [(group, len(rows)) for group, rows in grid.groups] == [("", 1), ("OBS, 31.25 %", 3), ("OBS, 50 %", 3)]


def test_a_plot_says_every_value_in_words() -> None:
    lines, bars = small_table().plots
    assert describe_plot(bars) == (
        "Ours and the paper’s: distance (lower is better) over pruner. ours: OBS, 31.25 %: 2, OBS, 50 %: 3; "
        "paper: OBS, 31.25 %: 4, OBS, 50 %: 12."
    )
    for plot in (lines, bars, Plot("one", "x", "y", (Series("a", (PlotPoint(1, math.nan),)),))):
        assert draw_plot(plot, DARK).startswith(b"\x89PNG")


def test_bars_with_many_names_lie_so_that_each_name_has_a_line() -> None:
    few, many = (
        Plot("bars", "", "y", (Series("a", tuple(PlotPoint(f"a rather long name {i}", i) for i in range(n))),), "bars")
        for n in (2, 12)
    )
    heights = []
    for plot in (few, many):
        with Image.open(BytesIO(draw_plot(plot, LIGHT))) as image:
            heights.append(image.height)
    assert heights[1] > 1.5 * heights[0]


def test_impossible_tables_are_refused() -> None:
    report = small_table()
    first, *rest = report.rows
    for change, message in (
        ({"rows": ()}, "needs rows"),
        ({"columns": (report.columns[0], report.columns[0])}, "distinct keys"),
        ({"columns": report.columns[1:]}, "has values of"),
        ({"rows": (first, first)}, "a row twice"),
        ({"rows": (rest[0], rest[3], rest[1])}, "must follow each other"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(report, **change)
