"""Figures that tell the whole: what they say is what the matrices say."""

from __future__ import annotations

from janus.plots import kept, overview

FALLS = [[90.0], [60.0, 80.0], [30.0, 70.0, 75.0]]  # old tasks lose 60 and 10 points
HOLDS = [[90.0], [90.0, 70.0], [88.0, 70.0, 65.0]]


def test_the_title_says_how_much_old_tasks_lost_under_each_method() -> None:
    figure = kept({"LoRA": FALLS, "Janus": HOLDS})
    assert figure.plotly.layout.title.text.endswith("−35.0 under LoRA, −1.0 under Janus")
    assert "−35.0 under LoRA" in figure.alt


def test_each_task_is_a_line_from_its_own_moment_on_in_every_panel() -> None:
    figure = kept({"LoRA": FALLS, "Janus": HOLDS})
    lines = [(trace.xaxis, trace.name, list(trace.x), list(trace.y)) for trace in figure.plotly.data]
    assert ("x", "task 1", [1, 2, 3], [90, 60, 30]) in lines and ("x2", "task 2", [2, 3], [70, 70]) in lines
    assert len(lines) == 6 and figure.plotly.layout.yaxis2.matches == "y"  # one scale
    named = [a.text for a in figure.plotly.layout.annotations]
    assert named.count("task 3") == 2 and {"LoRA", "Janus"} <= set(named)


def test_a_stream_of_one_task_has_lost_nothing() -> None:
    assert "+0.0 under LoRA" in kept({"LoRA": [[50.0]]}).alt


def test_the_overview_names_every_part() -> None:
    texts = " ".join(annotation.text for annotation in overview().plotly.layout.annotations)
    for part in (
        "Online Estimation",
        "Gradient Rectification",
        "Decoupled Margin Loss",
        "prototypes",
        "head",
        "ΔW V = 0",
    ):
        assert part in texts
