"""A figure as a bundle: plotly for a live page, a PNG for a static one, a text for those who see neither."""

from __future__ import annotations

import atexit
import base64
import io
import json
import os
import sys
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import JanusError

try:
    import plotly.graph_objects as go
    import plotly.io as pio
except ImportError as error:
    raise JanusError(f"figures need {error.name}: pip install 'janus-lora[plots]'") from None

# Okabe and Ito's colours, told apart by colour-blind readers; a series has its own marker as well.
COLOURS = tuple("#D55E00 #0072B2 #009E73 #E69F00 #CC79A7 #56B4E9 #000000 #7F7F7F #8C6D1F #5B3A8C".split())
MARKERS = tuple("circle square triangle-up diamond triangle-down x star cross hexagon pentagon".split())
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SEQUENTIAL = "Cividis"  # ordered the same way for every reader
FONT = 16  # pixels: 12 points
WIDE = 940  # pixels: what JupyterLab shows beside an open side bar
NO_CHROME = "PNGs need Chrome or Chromium (install it, or run `plotly_get_chrome`)"

_AXIS = {
    "title": {"font": {"size": FONT}},
    "gridcolor": "#E3E3E3",
    "linecolor": "#888888",
    "ticks": "outside",
    "zeroline": False,
}
pio.templates["janus"] = go.layout.Template(
    layout={
        "font": {"size": FONT, "color": "#222222", "family": "DejaVu Sans, Verdana, sans-serif"},
        "colorway": COLOURS,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "width": 900,
        "height": 480,
        "title": {"x": 0.02, "xanchor": "left", "font": {"size": FONT + 3}},
        "margin": {"l": 80, "r": 40, "t": 70, "b": 65},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "annotationdefaults": {"font": {"size": FONT}},
    },
    data={
        "scatter": [{"line": {"width": 2.5}, "marker": {"size": 10}}],
        "heatmap": [{"colorscale": SEQUENTIAL}],
    },
)


def _themed(figure: go.Figure) -> go.Figure:
    """With the theme, and its height in the figure itself: JupyterLab's renderer sees none in a template."""
    height = figure.layout.height or pio.templates["janus"].layout.height
    return figure.update_layout(template="janus", height=height)


class Figure:
    """A plotly figure that shows itself everywhere: as the last line of a cell, or saved.

    JupyterLab takes the plotly JSON, Colab HTML, GitHub, nbviewer and a printed page the PNG, a screen reader
    the text.

    Args:
        figure: the plotly figure; it gets the project's theme.
        alt: what it shows, in a sentence or two, for those who do not see it.
        static: what the PNG shows where it cannot be the figure itself (a slider's positions side by side,
            for instance).
    """

    def __init__(self, figure: go.Figure, alt: str, static: go.Figure | None = None) -> None:
        self.plotly, self.alt = _themed(figure), " ".join(alt.split())
        self.static = figure if static is None else _themed(static)

    @cached_property
    def png(self) -> bytes | None:
        """The PNG, drawn once by kaleido, in 256 colours (a third of the bytes); None without a Chrome."""
        if (kaleido := _kaleido()) is None:
            return None
        full = kaleido.calc_fig_sync(self.static, opts={"format": "png", "scale": 1.25})
        picture = Image.open(io.BytesIO(full)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(small := io.BytesIO(), "PNG", optimize=True)
        return small.getvalue()

    def live(self, html: bool = False) -> dict[str, Any]:
        """What a page with a kernel shows, by type: plotly's JSON, the text; HTML if asked, and on Colab."""
        data: dict[str, Any] = {"text/plain": self.alt}
        if html or "google.colab" in sys.modules:  # Colab does not know plotly's own type
            data["text/html"] = self.plotly.to_html(full_html=False, include_plotlyjs="cdn")
        plotly = json.loads(self.plotly.to_json()) | {"config": {"displaylogo": False}}
        return data | {"application/vnd.plotly.v1+json": plotly}

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        data = self.live(html=self.png is None)
        if self.png is not None:
            data["image/png"] = base64.b64encode(self.png).decode()
        return data, {"image/png": {"alt": self.alt, "width": self.static.layout.width or 900}}

    def save(self, path: str | Path) -> list[Path]:
        """Write `path` + .html (needs no network), .json (plotly's, small) and, where there is a Chrome,
        .png; what was written."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        html, text, png = (path.with_suffix(suffix) for suffix in (".html", ".json", ".png"))
        self.plotly.write_html(html, include_plotlyjs=True)
        text.write_text(self.plotly.to_json() + "\n")
        if self.png is None:
            print(f"{png.name} was not written: {NO_CHROME}", file=sys.stderr)
            return [html, text]
        png.write_bytes(self.png)
        return [html, text, png]


def can_draw() -> bool:
    """Are kaleido and a Chrome there? Starts neither."""
    try:
        import kaleido  # noqa: F401
        from choreographer.browsers.chromium import Chromium
    except ImportError:
        return False
    return bool(Chromium.find_browser(skip_local=False))


@cache
def _kaleido() -> Any | None:
    """kaleido with one Chrome that stays up; None where either is missing, or JANUS_PNG=0 wants none
    (`janus bench`)."""
    # asked first: kaleido's server would wait for a Chrome without end
    if os.environ.get("JANUS_PNG") == "0" or not can_draw():
        return None
    import kaleido

    kaleido.start_sync_server(silence_warnings=True)
    atexit.register(kaleido.stop_sync_server, silence_warnings=True)
    return kaleido
