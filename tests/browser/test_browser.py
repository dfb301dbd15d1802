"""The lessons as a reader meets them: live in JupyterLab, and as pages that run no code. `make test-browser`.

Chromium is the system's. Pictures of what was seen are kept in runs/browser, to be looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]*_*.ipynb"))
PICTURES = ROOT / "runs" / "browser"
TOKEN = "lessons"
RUN_SECONDS = 600  # for all cells of a lesson, in fast mode
TRACKER = "@jupyterlab/notebook-extension"


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.fail(f"no browser: install one of {', '.join(names)}")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab on a copy of the lessons (it saves what it shows).

    With no settings of the user's.
    """
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("lessons")
    for path in NOTEBOOKS:
        shutil.copy(path, folder)
    settings = home / "settings" / TRACKER / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    # all cells are in the page, not only those on the screen
    settings.write_text(json.dumps({"windowingMode": "none"}))
    news = home / "settings" / "@jupyterlab/apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JANUS_FAST": "1",
        "JANUS_RUNS": os.environ.get("JANUS_RUNS", str(home / "runs")),
        "JUPYTER_CONFIG_DIR": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--ServerApp.root_dir={folder}"]
    with open(home / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for_server(f"http://127.0.0.1:{port}/api?token={TOKEN}", server, home / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree"
    finally:
        server.terminate()  # it ends its kernels, too
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_for_server(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def lesson(number: str) -> Path:
    for path in NOTEBOOKS:
        if path.name.startswith(number):
            return path
    pytest.skip(f"there is no lesson {number}")


@pytest.fixture
def page(browser: object) -> Iterator:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)
    yield page
    page.close()


def run_all(page: object, lab: str, path: Path) -> None:
    """Open a lesson and choose Run > Run All Cells; it must come to its end without an error."""
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
    page.goto(f"{lab}/{path.name}?token={TOKEN}&reset")
    # the indicator is idle before there is a kernel, too, and JupyterLab then asks which one
    page.locator(".jp-StatusBar-Widget").get_by_text(re.compile(r"\| Idle")).wait_for()
    prompts = '[...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")]'
    numbers = f"{prompts}.map(prompt => prompt.textContent)"
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells").click()
    page.wait_for_function(f"() => {numbers}.every(text => !/\\d/.test(text))")  # else old numbers would do
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    error = '[data-mime-type="application/vnd.jupyter.error"]'
    page.wait_for_function(
        f"""() => {numbers}.filter(text => /\\d/.test(text)).length >= {cells}
                  || document.querySelector('{error}')""",
        timeout=RUN_SECONDS * 1000,
    )
    errors = page.locator(error)
    if errors.count():
        page.screenshot(path=PICTURES / f"{path.stem}-error.png")
        pytest.fail(f"{path.name} in JupyterLab: {errors.first.inner_text()[-1500:]}")
    assert page.evaluate(numbers) == [f"[{i + 1}]:" for i in range(cells)]
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()


def changed(look: object, before: bytes, seconds: float = 10) -> float | None:
    """Seconds until `look()` is no longer what it was; None: it stayed."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if look() != before:
            return time.monotonic() - start
    return None


def live_figure_with_slider(page: object) -> object:
    """JupyterLab shows a figure's PNG until the mouse is over it; then it comes alive."""
    figures = page.locator(".jp-RenderedPlotly")
    for i in range(figures.count()):
        figure = figures.nth(i)
        figure.scroll_into_view_if_needed()
        box = figure.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + min(box["height"], 200) / 2, steps=3)
        figure.locator(".plot-container").wait_for()
        if figure.locator(".slider-rail-touch-rect").count():
            figure.scroll_into_view_if_needed()
            return figure
    pytest.fail("no figure has a slider")


def test_02_a_widget_slider_redraws_its_figure(page: object, lab: str) -> None:
    path = lesson("02")
    run_all(page, lab, path)
    widget = page.locator(".jp-OutputArea-output").filter(has=page.locator(".noUi-handle")).first
    slider, base = widget.locator(".noUi-handle").first, widget.locator(".noUi-base").first
    slider.scroll_into_view_if_needed()
    page.wait_for_timeout(2000)  # the figure under it settles
    widget.screenshot(path=PICTURES / f"{path.stem}-slider-before.png")
    figure = ".js-plotly-plot .main-svg, .js-plotly-plot canvas, .jp-OutputArea-output img, svg, img"
    drawn = f"""widget => [...widget.querySelectorAll('{figure}')].map(
                part => part.src || (part.toDataURL ? part.toDataURL() : part.outerHTML)).join()"""
    before, value = widget.evaluate(drawn), slider.get_attribute("aria-valuenow")
    assert before, "no figure belongs to the slider"
    box, rail = slider.bounding_box(), base.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    to = rail["x"] + (0.85 if x < rail["x"] + rail["width"] / 2 else 0.15) * rail["width"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(to, y, steps=8)
    page.mouse.up()
    seconds = changed(lambda: widget.evaluate(drawn), before)
    page.wait_for_timeout(2000)
    widget.screenshot(path=PICTURES / f"{path.stem}-slider-after.png")
    assert slider.get_attribute("aria-valuenow") != value, "the slider did not move"
    assert seconds is not None, "the slider moved, and the figure stayed as it was"
    print(f"the figure changed {seconds:.2f} s after the slider was let go")


def test_05_a_figure_with_its_own_slider_needs_no_kernel(page: object, lab: str) -> None:
    path = lesson("05")
    run_all(page, lab, path)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Shut Down Kernel")).click()
    figure = live_figure_with_slider(page)
    page.wait_for_timeout(2000)
    figure.screenshot(path=PICTURES / f"{path.stem}-slider-before.png")
    points = ".cartesianlayer"
    before = figure.locator(points).inner_html()
    label = figure.locator(".slider-label, .slider-current-value").first.text_content()
    rail = figure.locator(".slider-rail-touch-rect").first.bounding_box()
    grip = figure.locator(".slider-grip-rect").first.bounding_box()
    y = rail["y"] + rail["height"] / 2
    here = grip["x"] + grip["width"] / 2
    there = rail["x"] + (0.99 if here < rail["x"] + rail["width"] / 2 else 0.01) * rail["width"]
    page.mouse.move(here, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(there, y, steps=10)
    page.mouse.up()
    seconds = changed(lambda: figure.locator(points).inner_html(), before)
    page.wait_for_timeout(1000)
    figure.screenshot(path=PICTURES / f"{path.stem}-slider-after.png")
    assert seconds is not None, (
        f"the slider of the figure moved from {label!r}, and the points stayed where they were"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_without_a_kernel_or_a_network_every_figure_is_seen(page: object, path: Path, tmp_path: Path) -> None:
    figures = sum(
        "image/png" in output.get("data", {})
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", ())
    )
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(tmp_path), str(path)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    page.route(re.compile("^https?:"), lambda route: route.abort())
    page.goto((tmp_path / f"{path.stem}.html").as_uri(), wait_until="load")
    images = page.locator('.jp-OutputArea-output img[src^="data:"]')
    seen = images.evaluate_all("""images => images.map(image => [image.complete && image.naturalWidth > 0,
        image.getBoundingClientRect().width > 100, image.checkVisibility(), image.alt])""")
    page.screenshot(path=PICTURES / f"{path.stem}-static.png", full_page=True)
    assert len(seen) == figures, f"{figures} figures in the notebook, {len(seen)} on the page"
    assert all(all(image[:3]) for image in seen), seen
    assert not page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count()
