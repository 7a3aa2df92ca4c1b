"""Colours of the figures, for light and for dark pages.

The hues are those of Okabe and Ito, which people with any common colour blindness tell apart; levels run from pale to
deep in one hue, so that their order survives greyscale printing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Inches. A phone shows this width at about one CSS pixel per point, so 9-point text stays readable there.
WIDTH = 4.6
_DOTS_PER_INCH = 180


@dataclass(frozen=True)
class Theme:
    """One set of colours.

    Attributes:
        paper: Background.
        ink: Text.
        muted: Secondary text and ticks.
        line: Rules and frames.
        hues: Colours of series, in order of use.
        levels: Colours of level 0 (dense) and of level H (everything removed), with steps between.
    """

    paper: str
    ink: str
    muted: str
    line: str
    hues: tuple[str, ...]
    levels: tuple[str, ...]

    def level_colour(self, share: float) -> tuple[float, float, float]:
        """Colour of a level, given as the share ℓ/H in [0, 1]."""
        red, green, blue, _ = LinearSegmentedColormap.from_list("levels", self.levels)(share)
        return float(red), float(green), float(blue)

    @staticmethod
    def text_on(colour: tuple[float, float, float]) -> str:
        """Black or white, whichever stands out more: on any colour one of them has a contrast above 4.5 (WCAG AA)."""
        return max(("#000000", "#ffffff"), key=lambda text: _contrast(to_rgb(text), colour))


LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2733",
    muted="#5b6875",
    line="#d8dfe6",
    hues=("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b58900"),
    levels=("#eef3f7", "#a9cbe3", "#4a90c2", "#1a5a93", "#0b2d55"),
)
DARK = Theme(
    paper="#171d24",
    ink="#e7ecf1",
    muted="#9aa7b4",
    line="#323c47",
    hues=("#56b4e9", "#f0803c", "#2fc39a", "#d98cc8", "#e6c229"),
    levels=("#232c36", "#23506f", "#2f7fb1", "#74b7e0", "#d4ecfb"),
)


@contextmanager
def drawing(theme: Theme, height: float) -> Iterator[Figure]:
    """Give an empty figure of the standard width, `height` inches high, in the colours of the theme."""
    settings: dict[Any, Any] = {
        "font.size": 9,
        "axes.edgecolor": theme.line,
        "axes.labelcolor": theme.muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "text.color": theme.ink,
        "text.parse_math": False,  # a schedule may be called "$x$"
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), dpi=_DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file; equal figures give equal bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def palette_png(figure: Figure) -> bytes:
    """Return a figure of few colours as a PNG file with a palette: a third of the size, with no difference to see."""
    with Image.open(BytesIO(png(figure))) as image:
        few = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = BytesIO()
    few.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def bare(axes: Axes) -> None:
    """Remove the frame of an axes."""
    for spine in axes.spines.values():
        spine.set_visible(False)


def _contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Contrast ratio of WCAG 2.1, 1 to 21."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
