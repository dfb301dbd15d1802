"""Step an optimiser of two factors, and watch its weight change stay in the safe plane, or leave it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..linalg import project_out
from ..metrics import displacement, violation
from ..plots.geometry import TURN, Figure, plane_frame, safe_plane
from ..rectify import nullspace_start, tangent_update

if TYPE_CHECKING:
    import ipywidgets

V = torch.tensor([[1.0], [2.0], [2.0]], dtype=torch.float64) / 3  # the direction of old inputs: no axis
G = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)  # the gradient at the start
B = torch.tensor([[0.6], [-0.4]], dtype=torch.float64)  # what an earlier task left in B
OPTIMISERS = ("SGD, both gradients projected", "Adam, both gradients projected", "tangent", "exact")


class Plane:
    """A matrix (2, 3) with factors of rank 1 and a quadratic loss `½‖W − W*‖²`: its gradient is `W − W*`.

    V (3, 1): old inputs. G (2, 3): the gradient at the start. B (2, 1) at the start. angle: of A's row and V,
    in degrees. `exact` starts from B = 0 (merged) and A moved to A V = 0.
    """

    def __init__(
        self, optimiser: str, angle: float, lr: float, V: Tensor = V, G: Tensor = G, B: Tensor = B
    ) -> None:
        self.optimiser, self.lr, self.V, self.G0, self.steps = optimiser, lr, V, G, 0
        u = torch.tensor(plane_frame(V)[0], dtype=V.dtype)
        along, across = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        self.A = (along * V.T + across * u).contiguous()
        self.B = B.clone()
        if optimiser == "exact":  # along V nothing is left to start from, so it starts from u there
            self.A = nullspace_start(self.A, V) if across > 1e-6 else u.reshape(1, 3).clone()
            self.B.zero_()
        self.start, self.before = (self.A.clone(), self.B.clone()), (self.A.clone(), self.B.clone())
        self.adam = torch.optim.Adam([self.A.requires_grad_(), self.B.requires_grad_()], lr=lr)

    @torch.no_grad()
    def step(self) -> None:
        A, B, lr = self.A, self.B, self.lr
        self.before = (A.clone(), B.clone())
        gradient = self.G0 + self.moved  # of the quadratic loss
        safe = project_out(gradient, self.V)
        if self.optimiser == "tangent":
            dA, dB = tangent_update(-lr * safe, A, B)
        elif self.optimiser == "exact":  # B's gradient as it comes
            dA, dB = -lr * B.T @ safe, -lr * gradient @ A.T
        else:
            dA, dB = -lr * B.T @ safe, -lr * safe @ A.T
        if self.optimiser.startswith("Adam"):
            A.grad, B.grad = -dA / lr, -dB / lr
            self.adam.step()
        else:
            A += dA
            B += dB
        self.steps += 1

    @property
    def moved(self) -> Tensor:
        """ΔW (2, 3) since the start."""
        return displacement(self.start, (self.A.detach(), self.B.detach()), 1.0)

    @property
    def violation(self) -> float:
        """Of everything since the start."""
        return violation(self.moved, self.V)

    @property
    def violation_step(self) -> float:
        """Of the last step."""
        return violation(displacement(self.before, (self.A.detach(), self.B.detach()), 1.0), self.V)

    def figure(self, turn: float = TURN) -> Figure:
        return safe_plane(
            {"": {"ΔW": self.moved, "A": self.A.detach()}},
            self.V,
            f"ΔW after {self.steps} step{'s' * (self.steps != 1)}: violation {self.violation:.2f}",
            turn=turn,
        )

    def line(self) -> str:
        """What the knobs led to, in words."""
        loss = 0.5 * float((self.G0 + self.moved).square().sum())
        AV = float((self.A.detach() @ self.V).squeeze())
        return (
            f"{self.steps} step{'s' * (self.steps != 1)} of {self.optimiser}: violation since the start "
            f"{self.violation:.3f}, of the last step {self.violation_step:.3f}; "
            f"‖ΔW V‖ = {float(torch.linalg.norm(self.moved @ self.V)):.3f}; A V = {AV:+.3f}; loss {loss:.3f}"
        )


def explore_geometry(V: Tensor = V, G: Tensor = G, B: Tensor = B) -> ipywidgets.VBox:
    """Knobs for the angle of A's row and V, the step size, the optimiser, and a button for one more step.

    A turned knob starts again with the first step. V (3, 1), G (2, 3), B (2, 1): see `Plane`.
    """
    import ipywidgets as w

    look: dict[str, Any] = {"style": {"description_width": "12em"}, "layout": {"width": "34em"}}

    def slider(value: float, low: float, high: float, step: float, text: str) -> w.FloatSlider:
        return w.FloatSlider(value=value, min=low, max=high, step=step, description=text, **look)

    angle, lr = slider(60, 0, 180, 5, "angle of A and V (°)"), slider(0.6, 0.05, 1.0, 0.05, "step size")
    turn = slider(TURN, -180, 180, 2, "turn the view (°)")
    optimiser = w.Dropdown(options=OPTIMISERS, description="optimiser", **look)
    step, again = w.Button(description="one more step"), w.Button(description="start again")
    words, screen = w.HTML(), w.Output()
    state: dict[str, Plane] = {}

    def draw(_: Any = None) -> None:
        figure = state["plane"].figure(turn.value)
        # set in one piece, so that nothing flickers
        screen.outputs = ({"output_type": "display_data", "data": figure.live(), "metadata": {}},)
        words.value = state["plane"].line()

    def onward(_: Any = None) -> None:
        state["plane"].step()
        draw()

    def restart(_: Any = None) -> None:
        state["plane"] = Plane(optimiser.value, angle.value, lr.value, V, G, B)
        onward()

    for knob in (angle, lr, optimiser):
        knob.observe(restart, "value")
    turn.observe(draw, "value")
    step.on_click(onward)
    again.on_click(restart)
    restart()
    return w.VBox([angle, lr, optimiser, w.HBox([step, again]), words, turn, screen])
