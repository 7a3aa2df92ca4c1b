"""The HTML file: parses, stands alone, describes every picture, escapes what it is given."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_content import DIGEST, HOSTILE

from diff_es.errors import ArtifactError
from diff_es.report import ReportContent, TableReport, write_report

VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Every element with its attributes, the text, and whether the tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.headings: dict[str, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += data
            if own := self.elements[-1][1].get("id"):
                self.headings[own] = self.headings.get(own, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def landmarks(self) -> list[str]:
        """Names of all landmarks that may come more than once."""
        found = [attributes for name, attributes in self.elements if _is_landmark(name, attributes)]
        return [
            own.get("aria-label") or self.headings.get(own.get("aria-labelledby") or "", "").strip() for own in found
        ]


def _is_landmark(tag: str, attributes: dict[str, str | None]) -> bool:
    role = attributes.get("role") or tag
    named = "aria-label" in attributes or "aria-labelledby" in attributes
    roles = {"region", "navigation", "nav", "complementary", "aside", "search", "form"}
    return role in roles or (role == "section" and named)


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


def test_it_needs_no_network_and_no_other_file(page: Page, html: str) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "srcset", "href", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
        assert "style" not in attributes, "the policy would refuse it"
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_only_its_own_style_and_script_are_allowed(page: Page, html: str) -> None:
    policy = next(item["content"] or "" for item in page.all("meta") if "http-equiv" in item)
    hashes = []
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        hashes.append("sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
    assert policy == (f"default-src 'none'; img-src data:; style-src '{hashes[0]}'; script-src '{hashes[1]}'")


def test_every_picture_is_a_png_with_a_text_alternative(page: Page) -> None:
    pictures = page.all("img")
    # Results, two speed-ups, overview, two schedules, fitness, parameters; 12 columns make two sheets of three strips;
    # the pair that is compared; three worst cases.
    figures = 8
    assert len(pictures) == figures + 6 + 2 + 6
    for attributes in pictures:
        assert len(attributes["alt"] or "") > 15
        decode(attributes["src"] or "")
    assert len(page.all("source")) == figures
    for attributes in page.all("source"):
        assert attributes["media"] == "screen and (prefers-color-scheme: dark)"


def test_dark_figures_are_dark(page: Page) -> None:
    dark = decode(page.all("source")[0]["srcset"] or "").convert("L")
    light = decode(page.all("img")[0]["src"] or "").convert("L")
    assert dark.size == light.size
    assert np.asarray(dark).mean() < 80
    assert np.asarray(light).mean() > 200


def test_names_and_texts_are_shown_and_not_executed(page: Page, html: str) -> None:
    assert html.count("<script") == 1, "its own"
    assert HOSTILE in page.text
    for text in ("A <small> run", "name: <b>bold</b>", "diff-es run 'a & b.yaml'", "<a href='https://example.org'>"):
        assert text in page.text
    assert page.all("a") == []
    assert page.all("b") == []


@pytest.mark.parametrize("fixture", ["content", "table_content"])
def test_every_landmark_has_a_name_of_its_own(request: pytest.FixtureRequest, fixture: str, tmp_path: Path) -> None:
    """Also where the report, and with it a table, is called like one of its sections."""
    report: ReportContent | TableReport = replace(request.getfixturevalue(fixture), title="Notes")
    page = Page(write_report(tmp_path, report).read_text(encoding="utf-8"))
    names = page.landmarks()
    assert len(names) > 7 and all(names) and "Notes" in names
    assert len(set(names)) == len(names), names
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_a_slow_down_is_said_in_words(page: Page) -> None:
    assert "slower than dense (0.80×) at batch 8, slower than dense (0.83×) at batch 1" in page.text
    # In the headline, in the table of costs, and for both scopes in the table of latencies.
    assert page.text.count("slower than dense (0.80×)") == 4


def test_the_protocol_stands_beside_the_numbers(page: Page) -> None:
    words = " ".join(page.text.split())
    for text in (
        "Same seeds & sampler for all.",
        "DDIMScheduler, 20 steps, guidance scale 4.0",
        "torchmetrics 1.9.0",
        "seeds 4001000000",
        "20 timed runs after 3 to warm up",
        "pruned models in memory mode stream",
        "95%: 0.880 to 0.910",
        "torch 2",
        "it is not FID",
        "PolyForm Noncommercial 1.0.0",
        f"pruned/weights.safetensors{DIGEST}",
        "a shoe, seed 1000, SSIM 0.200",
    ):
        assert text in words


def test_broken_images_are_counted(page: Page) -> None:
    assert f"{HOSTILE}: 1 of 12 images hold values that are not finite" in page.text


def test_figures_are_png_files_with_safe_names(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "figures").iterdir())
    assert names == [
        "fitness.png",
        "images.png",
        "parameters.png",
        "quality-and-latency.png",
        "schedule-script-alert-1-script-x-1.png",
        "schedule-uniform.png",
        "schedules.png",
        "speedup-denoiser.png",
        "speedup-pipeline.png",
    ]
    for path in (folder / "figures").iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width == 828


def test_only_the_evaluation_is_required(tmp_path: Path, content: ReportContent) -> None:
    page = Page(write_report(tmp_path, ReportContent("bare", content.evaluation)).read_text(encoding="utf-8"))
    assert len(page.all("img")) == 4, "results, two speed-ups, parameters"
    assert "Two images in one place" not in page.text
    assert "Pruning schedules" not in page.text
    assert write_report(tmp_path, ReportContent("again", content.evaluation)).is_file(), "a report may be replaced"


def test_a_table_shows_ours_beside_the_papers_and_every_verdict(tmp_path: Path, table_content: TableReport) -> None:
    page = Page(write_report(tmp_path, table_content).read_text(encoding="utf-8"))
    assert page.open == []
    words = " ".join(page.text.split())
    for text in (
        "Of the paper’s claims that are tested here, 1 holds, 2 do not hold, 1 cannot be told apart.",
        "paper: FID, 50,000 images",
        "paper: 20",
        "Diff-ES 12.86, MosaicDiff 22.29 (FID)",
        "The hand-made stages fit this model by chance.",
        "Why it does not hold has not been examined.",
        "DDIMScheduler, 20 steps",
    ):
        assert text in words
    assert words.count("Why it does not hold") == 1
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        "fitness.png",
        "fitness-2.png",
        "images.png",
        "plot-distance-over-sparsity.png",
        "plot-ours-and-the-paper-s.png",
        # One panel only: where all layers of a stage have one level, the strip says it all.
        "schedule-script-alert-1-script-x-1.png",
        "schedules.png",
        "schedules-2.png",
    }


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path, content: ReportContent) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="Cannot write"):
        write_report(tmp_path / "file", content)
