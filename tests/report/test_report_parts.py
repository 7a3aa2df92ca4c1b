"""The parts of the report that carry numbers: table, headline, strips, names, colours; and refused contents."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from report_content import evaluation, measurement, schedule

from diff_es.artifacts import slugs
from diff_es.errors import InputError
from diff_es.evaluation import Evaluation
from diff_es.report import (
    FitnessPoint,
    Gallery,
    Plot,
    PlotPoint,
    Provenance,
    ReportContent,
    Series,
    TableColumn,
    Value,
    WorstCase,
)
from diff_es.report.gallery import address, gallery_page, shrink
from diff_es.report.grid import Grid, best_text
from diff_es.report.headline import headline
from diff_es.report.image_figures import count_broken, strip
from diff_es.report.metric_names import metric_name, metric_notes
from diff_es.report.result_figures import draw_fitness
from diff_es.report.schedule_figures import shorten
from diff_es.report.table import cost_grid, in_units, latency_grid, measurement_grid, milliseconds, quality_grid
from diff_es.report.theme import DARK, LIGHT, Theme


def best_of(name: str, *grids: Grid) -> set[str]:
    return {
        heading.title
        for grid in grids
        for row in grid.rows
        if row.name == name
        for heading, cell in zip(grid.headings, row.cells, strict=True)
        if cell.best
    }


def text_of(grid: Grid, name: str, title: str) -> str:
    row = next(row for row in grid.rows if row.name == name)
    titles = [heading.title for heading in grid.headings]
    return row.cells[titles.index(title)].text


def test_the_best_of_each_column_is_marked_in_its_own_direction() -> None:
    compared = evaluation(
        schedule("dense", None, 1.0, 20.0),
        schedule("near", (1,), 0.9, 25.0),
        schedule("quick", (2,), 0.7, 16.0),
    )
    grids = quality_grid(compared), cost_grid(compared)
    assert best_of("near", *grids) == {"SSIM to dense", "Latent MSE to dense"}
    assert best_of("quick", *grids) == {"Parameters that a call uses", "Latency, batch 8", "Measured speed-up, batch 8"}
    assert best_of("dense", *grids) == set(), "the reference takes no part"


def test_nan_is_never_best_and_is_called_not_finite() -> None:
    compared = evaluation(
        schedule("dense", None, 1.0, 20.0),
        schedule("broken", (1,), math.nan, 20.0),
        schedule("poor", (2,), 0.1, 20.0),
        schedule("poorer", (2,), 0.05, 20.0),
    )
    grid = quality_grid(compared)
    assert text_of(grid, "broken", "SSIM to dense") == "not finite"
    assert [row.cells[0].best for row in grid.rows] == [False, False, True, False]
    assert "“poor” stays nearest to dense" in headline(compared)


def test_values_that_read_alike_are_marked_alike() -> None:
    compared = evaluation(
        schedule("dense", None, 1.0, 20.0),
        schedule("a", (1,), 0.90001, 20.0),
        schedule("b", (1,), 0.90002, 20.0),
        schedule("c", (1,), 0.8, 20.0),
    )
    assert [row.cells[0].best for row in quality_grid(compared).rows] == [False, True, True, False]


def test_nothing_is_best_without_a_direction_or_a_difference() -> None:
    assert best_text([(1.0, "1"), (2.0, "2")], None) is None
    assert best_text([(1.0, "1"), (1.0, "1")], True) is None
    assert best_text([(1.0, "1"), (None, "?"), (2.0, "2")], False) == "1"


def test_any_metric_is_shown_with_its_own_direction() -> None:
    extra = (measurement("my_error", 3.0, higher=False), measurement("fid", 12.0, higher=False, interval=(11.0, 13.5)))
    better = (measurement("my_error", 1.0, higher=False), measurement("fid", 14.0, higher=False, interval=(13.0, 15.5)))
    grid = quality_grid(
        evaluation(
            schedule("dense", None, 1.0, 20.0, extra),
            schedule("a", (1,), 0.9, 20.0, extra),
            schedule("b", (1,), 0.8, 20.0, better),
        )
    )
    assert [heading.title for heading in grid.headings[2:]] == ["my_error", "FID"]
    assert best_of("a", grid) == {"SSIM to dense", "Latent MSE to dense", "FID"}
    assert best_of("b", grid) == {"my_error"}
    assert grid.rows[1].cells[3].details == ("95%: 11.00\u00a0to\u00a013.50",)


def test_the_classifiers_metrics_are_never_called_fid_or_is() -> None:
    for metric in ("frechet", "inception_score", "precision", "recall"):
        name = metric_name(f"classifier_{metric}")
        assert "on classifier features" in name.title
        assert "FID" not in name.title
        assert "it is not FID" in name.note
    assert metric_name("unheard_of").title == "unheard_of"
    assert metric_notes(("classifier_precision", "classifier_recall", "fid")) == (
        metric_name("classifier_recall").note,
    )


def two_batches() -> Evaluation:
    return evaluation(
        schedule("dense", None, 1.0, {1: 10.0, 8: 30.0}),
        schedule("half", (1,), 0.9, {1: 12.5, 8: 20.0}),
    )


def test_the_headline_says_how_fast_it_was_measured() -> None:
    quick = evaluation(schedule("dense", None, 1.0, 30.0), schedule("half", (1,), 0.9, 20.0))
    words = "“half” stays nearest to dense: SSIM 0.900 with 50% of the multiply-adds, measured 1.50× as fast as dense"
    assert headline(quick) == f"{words} at batch 8."
    assert headline(two_batches()) == f"{words} at batch 8, slower than dense (0.80×) at batch 1."
    assert (
        headline(evaluation(schedule("dense", None, 1.0, 30.0))) == "No schedule was evaluated, only the dense model."
    )


def test_the_headline_praises_no_unpruned_model() -> None:
    """That one under a cache is always nearest to dense."""
    rows = (
        schedule("dense", None, 1.0, 30.0),
        schedule("unpruned", (0, 0, 0), 0.99, 29.0),
        schedule("pruned", (2, 4, 6), 0.8, 20.0),
    )
    assert headline(evaluation(*rows)).startswith("“pruned” stays nearest to dense: SSIM 0.80")
    assert headline(evaluation(*rows[:2])) == "No schedule was evaluated, only the dense model."


def test_the_headline_does_without_ssim_and_without_latency() -> None:
    def only(name: str, fid: float, levels: tuple[int, ...] | None) -> Any:
        own = schedule(name, levels, 0.5, {})
        return dataclasses.replace(own, quality=(measurement("fid", fid, higher=False),))

    compared = evaluation(only("dense", 4.0, None), only("a", 7.0, (1,)), only("b", 6.0, (1,)))
    assert headline(compared) == "“b” is best: FID 6.00 with 50% of the multiply-adds, its latency not measured."
    assert [heading.title for heading in cost_grid(compared).headings] == [
        "Multiply-adds per image",
        "Parameters that a call uses",
    ]
    assert latency_grid(compared).headings == ()


def test_a_slow_down_is_said_in_words_at_every_batch_size() -> None:
    grid = latency_grid(two_batches())
    assert [heading.title for heading in grid.headings] == ["batch 1", "batch 8"]
    slow, quick = grid.rows[1].cells
    assert (slow.text, slow.details[-1], slow.warn) == ("12.5 ms", "slower than dense (0.80×)", True)
    assert (quick.text, quick.details[-1], quick.warn) == ("20.0 ms", "1.50× as fast as dense", False)
    assert [row.group for row in grid.rows] == ["A whole pipeline call"] * 2 + ["One denoiser call"] * 2


def test_what_is_slower_than_dense_is_never_the_best() -> None:
    compared = evaluation(
        schedule("dense", None, 1.0, 10.0), schedule("slow", (1,), 0.9, 12.0), schedule("slower", (2,), 0.7, 16.0)
    )
    assert best_of("slow", cost_grid(compared)) == set()


def test_what_was_timed_for_one_side_only_is_not_compared() -> None:
    compared = evaluation(schedule("dense", None, 1.0, {1: 10.0}), schedule("half", (1,), 0.9, {1: 12.5, 8: 20.0}))
    assert [heading.title for heading in latency_grid(compared).headings] == ["batch 1"]


def test_every_number_says_what_it_was_measured_by() -> None:
    cells = measurement_grid(two_batches()).rows[0].cells
    assert [cell.text for cell in cells] == ["torchmetrics 1.9.0", "16", "dense", "none"]
    assert cells[1].details == ("seeds 4001000000\u2060–\u20604001000015",)


@pytest.mark.parametrize(("value", "text"), [(0.456, "0.46"), (12.34, "12.3"), (1530.4, "1530")])
def test_times_have_about_three_digits(value: float, text: str) -> None:
    assert milliseconds(value) == text


@pytest.mark.parametrize(
    ("macs", "text"),
    [
        (999, "999 MACs"),
        (1500, "1.5 kMACs"),
        (999_600_000, "1 GMACs"),
        (6_300_000_000, "6.3 GMACs"),
        (2 * 10**12, "2 TMACs"),
    ],
)
def test_multiply_adds_get_decimal_prefixes(macs: int, text: str) -> None:
    assert in_units(macs, "MACs") == text


def test_a_strip_keeps_pixels_and_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    row = strip(images)
    assert row.shape == (4, 3 * 5 + 2 * 2, 4)
    for index in range(3):
        assert np.array_equal(row[:, 7 * index : 7 * index + 5, :3], images[index])
    assert (row[:, [5, 6, 12, 13], 3] == 0).all()
    assert np.array_equal(strip(images / 255.0), row), "floats round to the same pixels"


def test_values_that_are_not_finite_are_black_and_counted() -> None:
    images = np.ones((3, 2, 2, 3), dtype=np.float32)
    images[1, 0, 0] = [np.nan, np.inf, -np.inf]
    assert count_broken(images) == 1
    assert strip(images)[0, 4].tolist() == [0, 0, 0, 255]
    assert strip(images)[1, 4].tolist() == [255, 255, 255, 255]


def test_a_row_may_have_empty_places() -> None:
    images = np.full((2, 4, 5, 3), 9, dtype=np.uint8)
    row = strip(images, columns=3)
    assert row.shape == (4, 3 * 5 + 2 * 2, 4)
    assert (row[:, 14:, 3] == 0).all()
    assert np.array_equal(row[:, :12], strip(images))


def test_large_images_are_shown_smaller_and_said_to_be() -> None:
    large = np.random.default_rng(0).random((2, 300, 600, 3))
    assert shrink(large).shape == (2, 128, 256, 3)
    assert address(shrink(large)[0]).startswith("data:image/webp;base64,")
    page = gallery_page(Gallery({"dense": large, "half": large}))
    assert not page.exact
    assert page.remarks == ("Images of 600 pixels are shown at 256 or fewer, and compressed.",)
    small = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(shrink(small), small)
    assert address(small[0]).startswith("data:image/png;base64,")
    assert gallery_page(Gallery({"dense": small})).exact


def test_a_gallery_is_cut_into_sheets_of_equal_width() -> None:
    images = np.zeros((12, 4, 4, 3), dtype=np.uint8)
    page = gallery_page(Gallery({"dense": images, "half": images}, tuple("abcdefghijkl")))
    assert [sheet.columns for sheet in page.sheets] == [tuple("abcdef"), tuple("ghijkl")]
    few = gallery_page(Gallery({"dense": images[:2], "half": images[:2]}, seeds=(7, 8)))
    assert [(sheet.places, sheet.cells) for sheet in few.sheets] == [(6, '["seed 7", "seed 8"]')]
    assert few.first is not None
    assert (few.first.schedule, few.first.label) == ("half", "seed 7")
    assert gallery_page(Gallery({"dense": images})).first is None, "nothing to compare it with"
    assert gallery_page(Gallery()).sheets == ()


def test_file_names_of_figures_are_safe_and_distinct() -> None:
    made = slugs(["Uniform", "uniform", "../etc/passwd", "日本", "", "a" * 300])
    assert made == ["uniform", "uniform-2", "etc-passwd", "unnamed", "unnamed-2", "a" * 60]


def test_layer_names_lose_what_they_share() -> None:
    assert shorten(("blocks.0.attn1", "blocks.10.attn1")) == ("0.attn1", "10.attn1")
    assert shorten(("blocks.1.ff",)) == ("ff",)
    assert shorten(("down.ff", "downsample.ff")) == ("down.ff", "downsample.ff")


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_numbers_on_levels_can_be_read(theme: Theme) -> None:
    for level in range(17):
        colour = theme.level_colour(level / 16)
        text = theme.text_on(colour)
        assert contrast(text, colour) >= 4.5, level


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_levels_change_steadily_in_brightness(theme: Theme) -> None:
    shades = [luminance(theme.level_colour(level / 16)) for level in range(17)]
    assert shades in (sorted(shades), sorted(shades, reverse=True))


def luminance(colour: tuple[float, ...]) -> float:
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(text: str, colour: tuple[float, ...]) -> float:
    written = tuple(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
    dark, light = sorted((luminance(written), luminance(colour)))
    return (light + 0.05) / (dark + 0.05)


GREY = np.full((12, 2, 2, 3), 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gallery({"dense": GREY[0]}), r"must be images \(N, H, W, 3\)"),
        (lambda: Gallery({"dense": GREY[:0]}), "N ≥ 1"),
        (lambda: Gallery({"dense": 255 * GREY}), r"must lie in \[0, 1\]"),
        (lambda: Gallery({"dense": GREY.astype(np.int64)}), "must be uint8 or float"),
        (lambda: Gallery({"dense": GREY}, ("one", "two")), "2 entries for 12 images"),
        (lambda: Gallery({"dense": GREY}, seeds=(1,)), "1 entries for 12 images"),
        (lambda: Gallery({"dense": GREY, "half": GREY[:3]}), "one shape"),
        (lambda: WorstCase(1, 0.5, GREY[0], GREY[0, :1]), "they must agree"),
        (lambda: WorstCase(1, 0.5, GREY, GREY), "must be images"),
        (lambda: Provenance(checksums={"a": "0x12"}), "no sha256"),
        (lambda: Value(1.0, (2.0, 1.0)), "lower end, upper end"),
        (lambda: Series("none", ()), "has no point"),
        (lambda: TableColumn("a", "A", form="q"), "no format of a number"),
        (
            lambda: Plot("mixed", "x", "y", (Series("a", (PlotPoint(1, 1.0), PlotPoint("b", 1.0))),)),
            "all numbers or all categories",
        ),
        (lambda: Plot("bars", "x", "y", (Series("a", (PlotPoint(1, 1.0),)),), "bars"), "must be names"),
    ],
)
def test_impossible_parts_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": Gallery({"nobody": GREY})}, "which the evaluation lacks"),
        ({"gallery": Gallery(worst={"nobody": ()})}, "which the evaluation lacks"),
        ({"schedules": {"nobody": None}}, "which the evaluation lacks"),
        ({"history": {"search": ()}}, "holds no generation"),
    ],
)
def test_impossible_contents_are_refused(content: ReportContent, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(content, **change)


def test_a_history_of_one_generation_can_be_drawn(content: ReportContent) -> None:
    png = draw_fitness({"short": (FitnessPoint(0, 0.5, 0.4, 0.3),)}, content.fitness, LIGHT)
    assert png.startswith(b"\x89PNG")
