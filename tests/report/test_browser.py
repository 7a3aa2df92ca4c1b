"""The report in a real browser: what is on the page works, fits, is accessible, and asks no network for anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from report_content import HOSTILE

from diff_es.report import ReportContent, TableReport, write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser: {CHROMIUM} is missing")

_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = (360, 768, 1280)
_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@dataclass
class Visit:
    """An open page, all requests it made, and everything on its console."""

    page: Any
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, content: ReportContent, table_content: TableReport) -> Any:
    folder = tmp_path_factory.mktemp("reports")
    return {"run": write_report(folder / "run", content), "table": write_report(folder / "table", table_content)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Look at the reports made here, or at those that `--report` names."""
    if "report" in metafunc.fixturenames:
        given = metafunc.config.getoption("report")
        metafunc.parametrize("report", given or ["run", "table"], indirect=True)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Path:
    if Path(request.param).is_file():
        return Path(request.param).resolve()
    made: dict[str, Path] = request.getfixturevalue("reports")
    return made[request.param]


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    contexts = []

    def open_page(report: Path, *, width: int = 1280, **settings: Any) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 800}, **settings)
        context.set_default_timeout(120_000)  # in ms; a busy machine is slow, not broken
        contexts.append(context)
        visit = Visit(context.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("console", lambda message: visit.messages.append(message.text))
        visit.page.on("pageerror", lambda error: visit.messages.append(str(error)))
        visit.page.goto(report.as_uri())
        if settings.get("java_script_enabled", True):
            visit.page.wait_for_selector(".compare.live")
        return visit

    yield open_page
    for context in contexts:
        context.close()


def violations(page: Any) -> list[str]:
    answer = axe.Axe().run(page, options=_RULES).response
    assert len(answer["passes"]) > 20, "axe has looked at the page"
    return [f"{rule['id']}: {[node['target'] for node in rule['nodes']]}" for rule in answer["violations"]]


def test_a_report_is_one_small_file(report: Path) -> None:
    assert report.stat().st_size <= 5 * 10**6


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_screen_and_asks_for_nothing(visit: Any, report: Path, width: int) -> None:
    opened = visit(report, width=width)
    opened.page.mouse.wheel(0, 10**6)
    opened.page.wait_for_timeout(100)
    assert [url[:60] for url in opened.requests if not url.startswith("data:image/")] == [report.as_uri()[:60]]
    assert opened.messages == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert overflowing(opened.page) == []


def test_a_long_choice_stays_in_its_section(visit: Any, report: Path) -> None:
    page = visit(report, width=360).page
    long = "a dress with a long name, seed 4001000000, SSIM 0.300"
    page.evaluate("(text) => document.querySelector('.compare .image').append(new Option(text))", long)
    assert overflowing(page) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_seeds_do_not_break_between_their_digits(visit: Any, report: Path, width: int) -> None:
    """The table of measurements has narrow columns; a re-created table has none."""
    page = visit(report, width=width).page
    heights = page.evaluate("[...document.querySelectorAll('.words td small')].map((item) => item.clientHeight)")
    assert max(heights, default=0) < 25, "one line"


def overflowing(page: Any) -> list[str]:
    """Elements whose text or image sticks out of their section; what scrolls by itself may be wider."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
            .filter((item) => !item.closest("pre, .wide, .unseen, thead, [hidden]"))
            .filter((item) => {
                const around = item.parentElement.closest("section, main");
                return item.getBoundingClientRect().right > around.getBoundingClientRect().right + 1;
            })
            .map((item) => `${item.tagName}.${item.className}: ${item.textContent.slice(0, 40)}`)"""
    )
    return found


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (768, "light"), (1280, "light"), (768, "dark")])
def test_it_is_accessible(visit: Any, report: Path, width: int, scheme: str) -> None:
    page = visit(report, width=width, color_scheme=scheme).page
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 26)"
    assert dark == (scheme == "dark")
    assert violations(page) == []


def test_every_image_is_drawn_and_described(visit: Any, report: Path) -> None:
    page = visit(report).page
    images = page.evaluate("[...document.images].map((image) => [image.alt, image.complete && image.naturalWidth])")
    assert len(images) > 10
    for alt, width in images:
        assert len(alt) > 10
        assert width


def test_the_comparison_works_from_the_keyboard(visit: Any, report: Path) -> None:
    page = visit(report).page
    slider, right = page.locator(".compare input"), page.locator(".compare .right")
    name = page.locator(".compare figcaption").nth(1).inner_text()
    clip = "(image) => getComputedStyle(image).clipPath"
    assert right.evaluate(clip) == "inset(0px 0px 0px 50%)"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert right.evaluate(clip) == "inset(0px 0px 0px 51%)"
    assert slider.get_attribute("aria-valuetext") == f"51% dense, 49% {name}"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert right.evaluate(clip) == "inset(0px 0px 0px 100%)", "only dense"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert right.evaluate(clip) == "inset(0px 0px 0px 0%)", "only the schedule"


@pytest.mark.parametrize("kind", ["run", "table"])
def test_the_comparison_follows_the_choices(visit: Any, reports: dict[str, Path], kind: str) -> None:
    page = visit(reports[kind]).page
    left, right, shown = page.locator(".compare .left"), page.locator(".compare .right"), page.locator(".shown")
    seen = {(left.get_attribute("src"), right.get_attribute("src"))}
    options = page.locator(".compare .image option")
    assert options.count() == 12 + 3, "12 seeds and 3 worst cases"
    for choice in ("class 11, seed 1011", "a shoe, seed 1001, SSIM 0.300"):
        page.locator(".compare .image").select_option(label=choice)
        assert shown.inner_text() == choice
        assert right.get_attribute("alt") == f"By {HOSTILE}: {choice}."
        seen.add((left.get_attribute("src"), right.get_attribute("src")))
    assert len(seen) == 3
    other = page.locator(".compare .model option").first.inner_text()
    page.locator(".compare .model").select_option(label=other)
    assert right.get_attribute("alt") == f"By {other}: class 0, seed 1000."
    assert options.count() == 12, "it has no worst case"
    assert page.locator(".compare figcaption").nth(1).inner_text() == other


def test_the_comparison_cuts_the_very_pixels_out_of_a_strip(visit: Any, reports: dict[str, Path]) -> None:
    page = visit(reports["run"]).page
    shown, first = page.evaluate(
        """() => ["src", "first"].map((kind) => {
            const image = document.querySelector(kind === "src" ? ".compare .left" : "img[data-model='dense']");
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [16, 16];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return [...canvas.getContext("2d").getImageData(0, 0, 16, 16).data];
        })"""
    )
    assert shown == first
    assert len(set(shown)) > 20


def test_the_pointer_moves_the_border(visit: Any, report: Path) -> None:
    page = visit(report).page
    page.locator(".compare .pair").scroll_into_view_if_needed()
    box = page.locator(".compare .left").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"], box["y"])
    assert page.locator(".compare input").input_value() == "25"


def test_without_a_script_both_images_stand_side_by_side(visit: Any, report: Path) -> None:
    page = visit(report, java_script_enabled=False).page
    left, right = (page.locator(f".compare .{side}").bounding_box() for side in ("left", "right"))
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]
    assert not page.locator(".compare select").first.is_visible()
    assert not page.locator(".compare input").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_prints_light_without_controls_and_unclipped(visit: Any, report: Path, scheme: str) -> None:
    """A4 less 15 mm on each side is 680 CSS pixels wide."""
    opened = visit(report, width=680, color_scheme=scheme)
    page = opened.page
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    for control in ("select", "input", "button"):
        assert not page.locator(f".compare {control}").first.is_visible()
    left, right = (page.locator(f".compare .{side}").bounding_box() for side in ("left", "right"))
    assert left["x"] + left["width"] <= right["x"], "side by side"
    assert page.locator(".compare .right").evaluate("(image) => getComputedStyle(image).clipPath") == "none"
    sources = page.evaluate("[...document.querySelectorAll('source')].map((item) => matchMedia(item.media).matches)")
    assert not any(sources), "dark figures are not printed"
    assert page.evaluate("document.documentElement.scrollWidth") <= 680
    assert overflowing(page) == []
    clipped = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
            .filter((item) => !item.closest(".unseen") && getComputedStyle(item).overflowX !== "visible")
            .filter((item) => item.scrollWidth > item.clientWidth + 1).map((item) => item.tagName)"""
    )
    assert clipped == []


def test_it_becomes_a_document_of_some_pages(visit: Any, report: Path) -> None:
    pdf = visit(report).page.pdf(format="A4", print_background=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 3 <= pages <= 15, pages


def test_text_that_slipped_through_would_not_be_executed(visit: Any, report: Path) -> None:
    """The policy allows the page's own script by its hash, and no other."""
    opened = visit(report)
    opened.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.slipped = true";
            document.body.append(script);
        }"""
    )
    assert opened.page.evaluate("window.slipped") is None
    assert any("Content Security Policy" in message for message in opened.messages)
