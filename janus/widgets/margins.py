"""Turn the knobs of the Decoupled Margin Loss: two margins and a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plots.separation import Points, margins

if TYPE_CHECKING:
    import ipywidgets


def explore_margins(points: Points | None = None) -> ipywidgets.VBox:
    """Sliders for the push margin, the pull margin and the weight; the figure is
    `janus.plots.separation.margins`.

    points: real features as `janus.plots.separation.cosines` returns them; the shares that each term acts on
    are of them.
    """
    import ipywidgets

    def slider(value: float, text: str) -> ipywidgets.FloatSlider:
        return ipywidgets.FloatSlider(
            value=value,
            min=0.0,
            max=1.0,
            step=0.05,
            description=text,
            style={"description_width": "6em"},
            layout={"width": "30em"},
        )

    knobs = [slider(0.3, "push margin"), slider(0.7, "pull margin"), slider(0.5, "weight")]
    screen = ipywidgets.Output()

    def draw(_: Any = None) -> None:
        figure = margins(*(knob.value for knob in knobs), points=points)
        # set in one piece, so that nothing flickers
        screen.outputs = ({"output_type": "display_data", "data": figure.live(), "metadata": {}},)

    for knob in knobs:
        knob.observe(draw, "value")
    draw()
    return ipywidgets.VBox([*knobs, screen])
