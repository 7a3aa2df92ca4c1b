"""The HTML file: parses, stands alone, describes every picture, escapes what it is given."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_content import HOSTILE

from diff_es.errors import ArtifactError
from diff_es.report import ReportContent, write_report

VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Every element with its attributes, the text, and whether the tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, content: ReportContent) -> Path:
    folder = tmp_path_factory.mktemp("run") / "new"
    assert write_report(folder, content) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def decode(address: str) -> Image.Image:
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    image = Image.open(BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    return image


def test_tags_nest_and_all_are_closed(page: Page) -> None:
    assert page.open == []
    assert len(page.all("h1")) == 1


def test_it_needs_no_network_no_script_and_no_other_file(page: Page, html: str) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "srcset", "href", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_every_picture_is_a_png_with_a_text_alternative(page: Page) -> None:
    pictures = page.all("img")
    # Bars, overview, two schedules, fitness; 12 columns make two sheets of two strips.
    assert len(pictures) == 5 + 4
    for attributes in pictures:
        assert len(attributes["alt"] or "") > 20
        decode(attributes["src"] or "")
    assert len(page.all("source")) == 5
    for attributes in page.all("source"):
        assert attributes["media"] == "(prefers-color-scheme: dark)"


def test_dark_figures_are_dark(page: Page) -> None:
    dark = decode(page.all("source")[0]["srcset"] or "").convert("L")
    light = decode(page.all("img")[0]["src"] or "").convert("L")
    assert dark.size == light.size
    assert np.asarray(dark).mean() < 80
    assert np.asarray(light).mean() > 200


def test_names_and_texts_are_shown_and_not_executed(page: Page, html: str) -> None:
    assert "<script" not in html
    assert HOSTILE in page.text
    for text in ("A <small> run", "name: <b>bold</b>", "diff-es run 'a & b.yaml'", "<a href='https://example.org'>"):
        assert text in page.text
    assert page.all("a") == []
    assert page.all("b") == []


def test_a_slow_down_is_said_in_words(page: Page) -> None:
    assert "0.80×" in page.text
    assert page.text.count("slower than dense (0.80×)") == 2, "in the headline and in the table"


def test_the_protocol_stands_beside_the_numbers(page: Page) -> None:
    words = " ".join(page.text.split())
    for text in (
        "Same seeds & sampler for all.",
        "DDIMScheduler, 20 steps, guidance scale 4.0",
        "16 probes, seeds from 1000",
        "100 images, seeds from 5000; 2000 real images",
        "batch of 8; 20 timed runs after 3 to warm up",
        "torch 2",
        "it is not FID",
    ):
        assert text in words


def test_broken_images_are_counted(page: Page) -> None:
    assert f"{HOSTILE}: 1 of 12 images hold values that are not finite" in page.text


def test_figures_are_png_files_with_safe_names(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "figures").iterdir())
    assert names == [
        "fitness.png",
        "images.png",
        "quality-and-latency.png",
        "schedule-script-alert-1-script-x-1.png",
        "schedule-uniform.png",
        "schedules.png",
    ]
    for path in (folder / "figures").iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width == 832


def test_only_the_evaluation_is_required(tmp_path: Path, content: ReportContent) -> None:
    page = Page(write_report(tmp_path, ReportContent("bare", content.evaluation)).read_text(encoding="utf-8"))
    assert len(page.all("img")) == 1
    assert "Pruning schedules" not in page.text
    assert write_report(tmp_path, ReportContent("again", content.evaluation)).is_file(), "a report may be replaced"


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path, content: ReportContent) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="Cannot write"):
        write_report(tmp_path / "file", content)
