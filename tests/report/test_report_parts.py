"""The parts of the report that carry numbers: table, headline, strips, names, colours; and refused contents."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from report_content import evaluation, schedule

from diff_es.errors import InputError
from diff_es.report import FitnessPoint, ReportContent
from diff_es.report.image_figures import count_broken, strip
from diff_es.report.pictures import slugs
from diff_es.report.result_figures import draw_fitness
from diff_es.report.schedule_figures import shorten
from diff_es.report.table import columns, in_units, rows
from diff_es.report.theme import DARK, LIGHT, Theme
from diff_es.report.write import headline


def best_of(name: str, made: tuple[Any, ...], titles: list[str]) -> set[str]:
    row = next(row for row in made if row.name == name)
    return {title for title, cell in zip(titles, row.cells, strict=True) if cell.best}


def test_the_best_of_each_column_is_marked_in_its_own_direction() -> None:
    compared = evaluation(
        schedule("dense", None, 1.0, 20.0), schedule("near", (1,), 0.9, 25.0), schedule("quick", (2,), 0.7, 16.0)
    )
    titles = [column.title for column in columns(compared)]
    made = rows(compared)
    assert best_of("near", made, titles) == {"SSIM to dense", "Latent MSE to dense"}
    assert best_of("quick", made, titles) == {
        "Fréchet distance on classifier features",
        "Latency, median",
        "Measured speed-up",
    }
    assert best_of("dense", made, titles) == set(), "the reference takes no part"


def test_nan_is_never_best_and_is_called_not_finite() -> None:
    compared = evaluation(
        schedule("dense", None, 1.0, 20.0),
        schedule("broken", (1,), math.nan, 20.0),
        schedule("poor", (2,), 0.1, 20.0),
        schedule("poorer", (2,), 0.05, 20.0),
    )
    made = rows(compared)
    assert made[1].cells[0].text == "not finite"
    assert [row.cells[0].best for row in made] == [False, False, True, False]
    assert "“poor” stays nearest to dense" in headline(compared)


def test_values_that_read_alike_are_marked_alike() -> None:
    compared = evaluation(
        schedule("dense", None, 1.0, 20.0),
        schedule("a", (1,), 0.90001, 20.0),
        schedule("b", (1,), 0.90002, 20.0),
        schedule("c", (1,), 0.8, 20.0),
    )
    assert [row.cells[0].best for row in rows(compared)] == [False, True, True, False]


def test_the_headline_says_how_fast_it_was_measured() -> None:
    quick = evaluation(schedule("dense", None, 1.0, 30.0), schedule("half", (1,), 0.9, 20.0))
    assert headline(quick) == (
        "“half” stays nearest to dense: SSIM 0.900 with 50% of the multiply-adds, measured 1.50× as fast as dense."
    )
    assert (
        headline(evaluation(schedule("dense", None, 1.0, 30.0))) == "No schedule was evaluated, only the dense model."
    )


@pytest.mark.parametrize(
    ("macs", "text"),
    [(999, "999 MACs"), (1500, "1.5 kMACs"), (6_300_000_000, "6.3 GMACs"), (2 * 10**12, "2 TMACs")],
)
def test_multiply_adds_get_decimal_prefixes(macs: int, text: str) -> None:
    assert in_units(macs) == text


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


def test_file_names_are_safe_and_distinct() -> None:
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {"nobody": np.zeros((1, 2, 2, 3))}}, "which the evaluation lacks"),
        ({"images": {"dense": np.zeros((1, 2, 2))}}, r"must be \(N, H, W, 3\)"),
        ({"images": {"dense": np.full((12, 2, 2, 3), 255.0)}}, r"must lie in \[0, 1\]"),
        ({"images": {"dense": np.zeros((12, 2, 2, 3), dtype=np.int64)}}, "must be uint8 or float"),
        ({"images": {"dense": np.zeros((3, 2, 2, 3))}}, "12 names for 3 images"),
        ({"images": {"dense": np.zeros((12, 2, 2, 3)), "uniform": np.zeros((12, 4, 4, 3))}}, "one shape"),
        ({"history": {"search": ()}}, "holds no generation"),
    ],
)
def test_impossible_contents_are_refused(content: ReportContent, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(content, **change)


def test_a_history_of_one_generation_can_be_drawn(content: ReportContent) -> None:
    png = draw_fitness({"short": (FitnessPoint(0, 0.5, 0.4, 0.3),)}, content.fitness, LIGHT)
    assert png.startswith(b"\x89PNG")
