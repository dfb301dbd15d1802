"""Where rows stand: the numbers drawn are those of the runs, in the same seeds."""

from __future__ import annotations

import pytest
from helpers.made_results import results

from janus.plots.standing import above_floor, said
from janus.plots.worth import gain_over_step, worth, worth_under
from janus.report.compare import is_clear

ACC = {
    "LoRA": {0: 20.0, 1: 24.0},
    "OE+GR": {0: 23.0, 1: 26.1},
    "frozen": {0: 21.0, 1: 24.0},
    "RanPAC": {0: 30.0, 1: 34.0},
    "OE+GR, RanPAC head": {0: 35.0, 1: 39.0},
    "LoRA, RanPAC head": {0: 31.0},
    "exact": {0: 22.0, 1: 26.0},  # not under RanPAC's classifier
    "joint": {0: 40.0, 1: 44.0},
}
ROWS = results(ACC)
STEP = {"ratio": 1.1, "low": 1.0, "high": 1.3}
COST = {
    "cases": [{"model": "toy", "batch": 4, "variants": {"tangent + OE + DML": STEP}}],
    "hardware": {"card": None, "cpu": "Abacus"},
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _with_intervals() -> None:
    pytest.importorskip("scipy")


def test_a_difference_is_clear_only_with_several_seeds_and_a_small_interval() -> None:
    assert (
        is_clear([2.0, 2.1]) and is_clear([-2.0, -2.1]) and not is_clear([-1.0, 2.0]) and not is_clear([5.0])
    )
    assert said([5.0]) == "+5.0 (1)" and said([2.0, 2.1]) == "+2.0 ± 0.6 (2)"


def test_rows_stand_above_the_floor_in_the_same_seeds_the_highest_first() -> None:
    figure = above_floor(ROWS)
    drawn = {trace.name: trace for trace in figure.plotly.data}
    names = list(figure.plotly.layout.yaxis.ticktext)
    assert names[0] == "joint" and names[-1] == "<b>LoRA</b>" and "frozen" not in names
    assert list(drawn["OE+GR, seeds"].x) == pytest.approx([2.0, 2.1])
    assert drawn["OE+GR"].x[0] == pytest.approx(2.05)
    assert drawn["LoRA, RanPAC head"].x[0] == 10.0 and "LoRA, RanPAC head, seeds" not in drawn  # one seed
    title = figure.plotly.layout.title.text
    assert title.startswith("Clearly above frozen: 3 of 5 rows with several seeds")  # not LoRA, not exact
    assert "◆ all classes at once" in title and "frozen: ACC 22.5" in str(figure.plotly.layout.annotations)


def test_one_seed_is_no_proof_and_another_title_may_be_given() -> None:
    one = results({row: {0: seeds[0]} for row, seeds in ACC.items()})
    title = above_floor(one).plotly.layout.title.text
    assert title.startswith("Above frozen in their one seed, which proves nothing: 5 of 6 rows")
    assert "clear of zero, or one seed" in title and "95 % interval clear" not in title
    assert above_floor(one, title="so").plotly.layout.title.text.startswith("so<br>")
    assert "0 of 0" in above_floor(results({"mine": {0: 5.0}}), floor="mine").plotly.layout.title.text


def test_features_are_worth_what_the_same_classifier_gains_over_frozen_ones() -> None:
    found = worth(ROWS)
    assert found == {
        "LoRA": {"linear heads": [-1.0, 0.0], "RanPAC's classifier": [1.0]},
        "OE+GR": {"linear heads": pytest.approx([2.0, 2.1]), "RanPAC's classifier": [5.0, 5.0]},
    }
    figure = worth_under(ROWS).plotly
    assert figure.layout.title.text.startswith(
        "Under RanPAC's classifier: features of OE+GR +5.0 points, LoRA's +1.0 (not clear of 0)"
    )
    lora, tangent = figure.data
    assert list(lora.y) == [-0.5, 1.0] and list(lora.marker.symbol) == ["circle-open", "circle-open"]
    assert list(tangent.y) == pytest.approx([2.05, 5.0]) and "open" not in str(tangent.marker.symbol)
    assert [tick.split("<br>")[1] for tick in figure.layout.xaxis.ticktext] == [
        "frozen features: ACC 22.5",
        "frozen features: ACC 32.0",
    ]


def test_without_frozen_features_there_is_nothing_to_compare() -> None:
    assert worth(results({"LoRA": {0: 1.0}})) == {}
    assert worth_under(results({"LoRA": {0: 1.0}})).plotly.layout.title.text.startswith("No adapted features")


def test_a_row_is_drawn_at_the_price_of_its_step_if_that_was_measured() -> None:
    figure = gain_over_step(ROWS, COST)
    (point,) = figure.plotly.data
    assert (point.name, point.x[0], point.y[0]) == ("OE+GR", 1.1, pytest.approx(2.05))
    assert point.error_x.array[0] == pytest.approx(0.2) and point.error_x.arrayminus[0] == pytest.approx(0.1)
    assert "that of OE+GR, takes 1.10 × the time of PEFT's LoRA" in figure.plotly.layout.title.text
    assert "toy, batch 4, Abacus" in figure.plotly.layout.title.text
    nothing = COST | {"cases": [COST["cases"][0] | {"variants": {}}]}
    assert "No row" in gain_over_step(ROWS, nothing).plotly.layout.title.text
