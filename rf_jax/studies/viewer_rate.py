"""How many images per second a browser shows while the camera or an object moves.

    %(prog)s
    %(prog)s --events 1000      # and whether the viewer's memory grows over random changes

The viewer runs as a user starts it. A headless Chromium on the same machine shows its page; the
mouse drags the picture, and then the arrow of the tall box. An image counts when the page has
replaced its picture by it. WebGL runs in software, on the same cores as the network.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rf_jax.command_line import make_parser, run_command_line
from rf_jax.errors import InputError, needs_extra

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)

HANDLES = "/handles/move and turn"

PICTURE = "window.__viserMutable?.backgroundMaterial?.uniforms.colorMap.value"
COUNT = f"""() => {{
    window.shown = 0;
    let last = {PICTURE};
    const look = () => {{
        const now = {PICTURE};
        if (now !== last) {{ last = now; window.shown++; }}
        requestAnimationFrame(look);
    }};
    look();
}}"""


_ON_PAGE = """local => {
    const state = window.__viserMutable, canvas = state.canvas.getBoundingClientRect();
    const node = state.nodeRefFromName[local.node], point = state.camera.position.clone();
    point.set(0, 0, 0).applyMatrix4(node.matrixWorld);
    const pixel = 2 / (state.camera.projectionMatrix.elements[5] * canvas.height);
    const size = local.pixels ? pixel * point.distanceTo(state.camera.position) : 1;
    point.set(...local.point.map(x => x * size)).applyMatrix4(node.matrixWorld);
    point.project(state.camera);
    const x = canvas.width * (1 + point.x) / 2, y = canvas.height * (1 - point.y) / 2;
    return [canvas.x + x, canvas.y + y];
}"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=5.0, help="time of each measurement")
    add("--repeats", type=int, default=3, help="measurements of each kind")
    add("--events", type=int, default=0, help="random changes after that")
    add("--size", type=int, nargs=2, default=(800, 500), help="width and height of the page")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with viewer_process() as (process, url), browser_page(url, *args.size) as page:
        for name in ("camera", "object"):
            if name == "object":
                choose(page, "tall_box")
            rates = []
            for _ in range(1 + args.repeats):  # the first time, WebGL compiles its programs
                start = beside_objects(page) if name == "camera" else arrow(page)
                rates.append(shown_per_second(page, args.seconds, start))
            print(f"{name} moves:", *(f"{rate:.1f}" for rate in rates[1:]), "images/s", flush=True)
        if args.events:
            memory = random_events(page, args.events, lambda: resident_bytes(process.pid))
            first, last = np.mean(memory[:100]), np.mean(memory[-100:])
            print(
                f"{args.events} random events: resident memory {first / 2**20:.1f} MiB in the "
                f"first 100, {last / 2**20:.1f} MiB in the last 100 ({last / first - 1:+.2%})"
            )


@contextlib.contextmanager
def viewer_process(*options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The viewer of the Cornell box in a process of its own, and the address of its page."""
    command = [sys.executable, "-m", "rf_jax.view", "cornell_box", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield process, found[0]
                break
        else:
            raise InputError(f"the viewer did not start (status {process.wait()})")
        if process.poll() is not None:
            raise InputError(f"the viewer ended (status {process.returncode})")
    finally:
        process.terminate()
        process.wait()


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def browser_page(url: str, width: int, height: int) -> Iterator["Page"]:
    """The viewer's page in a headless browser, when it shows its first image.

    Raises:
      InputError: playwright or a browser is missing.
    """
    with needs_extra("test", "a headless browser"):
        from playwright.sync_api import sync_playwright
    if (browser := find_browser()) is None:
        raise InputError(f"no browser: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=OPTIONS)
        try:
            context = chromium.new_context(viewport={"width": width, "height": height})
            page = context.new_page()
            page.goto(url)
            page.wait_for_function(f"() => {PICTURE} != null", timeout=120_000)
            page.evaluate(COUNT)
            yield page
        finally:
            chromium.close()


def images_shown(page: "Page") -> int:
    """How many images the page has shown since its first one."""
    return page.evaluate("() => window.shown")


def shown_per_second(page: "Page", seconds: float, start: tuple[float, float]) -> float:
    """Images per second that the page shows while the mouse drags to and fro from a point."""
    x, y = start
    page.mouse.move(x, y)
    page.wait_for_timeout(1000)  # until the page knows what is below the mouse
    page.mouse.down()
    before, begin = images_shown(page), time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        page.mouse.move(x + 50 * np.sin(4 * passed), y)
    rate = (images_shown(page) - before) / passed
    page.mouse.up()
    return rate


def beside_objects(page: "Page") -> tuple[float, float]:
    """A point of the picture at which a drag turns the camera."""
    box = page.locator("canvas").first.bounding_box()
    return box["x"] + 0.4 * box["width"], box["y"] + 0.9 * box["height"]


def choose(page: "Page", name: str) -> None:
    """Chooses the object that has the handles."""
    box = page.locator("xpath=//*[text()='Handles at']/following::input[1]")
    if box.input_value() != name:
        box.click()
        page.get_by_role("option", name=name).click()
        wait_for_handles(page)


def wait_for_handles(page: "Page") -> None:
    """Waits until the handles have their place."""
    page.wait_for_function(f"() => window.__viserMutable.nodeRefFromName['{HANDLES}']")
    place = None
    while place != (place := arrow(page)):
        page.wait_for_timeout(500)


def arrow(page: "Page") -> tuple[float, float]:
    """Where on the page the tip of the handles' arrow along x is."""
    return on_page(page, (75, 0, 0), HANDLES, pixels=True)


def on_page(
    page: "Page", point: Sequence[float], node: str = "", pixels: bool = False
) -> tuple[float, float]:
    """Where the page's own camera shows a point.

    Args:
      page: the page.
      point: [3] in the space of the node.
      node: a name of the page's scene tree; the root is the world.
      pixels: whether the point is in pixels at the distance of the node.
    """
    local = {"point": list(point), "node": node, "pixels": pixels}
    return tuple(page.evaluate(_ON_PAGE, local))


def slider(page: "Page", folder: str, label: str) -> "Locator":
    """A slider of the panel; its folder must be open."""
    return page.locator(
        f"xpath=//*[text()='{folder}']/following::*[text()='{label}'][1]"
        "/following::*[contains(@class, 'mantine-Slider-root')][1]"
    )


def set_slider(handle: "Locator", fraction: float) -> None:
    """Clicks on a slider, at a fraction of its length."""
    handle.wait_for()  # a folder opens slowly
    box = handle.bounding_box()
    handle.click(position={"x": fraction * (box["width"] - 2) + 1, "y": box["height"] / 2})


def random_events(page: "Page", count: int, measure: Callable[[], float]) -> list[float]:
    """Makes random changes with the mouse, and measures after each one.

    A change is a drag or a turn of the wheel on the picture, or a click on a slider of the tall box
    or of the image.

    Raises:
      InputError: the page reports an error.
    """
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.get_by_text("tall_box", exact=True).first.click()
    sliders = [slider(page, "tall_box", label) for label in ("diffuse", "specular", "roughness")]
    sliders.append(slider(page, "Image", "Exposure"))
    box = page.locator("canvas").first.bounding_box()
    random_state, values = random.Random(0), []
    for _ in range(count):
        x, y = (box[side] * random_state.uniform(0.3, 0.7) for side in ("width", "height"))
        page.mouse.move(x, y)
        kind = random_state.choice(("drag", "wheel", "slider"))
        if kind == "drag":
            page.mouse.down()
            page.mouse.move(x + random_state.uniform(-40, 40), y + random_state.uniform(-20, 20))
            page.mouse.up()
        elif kind == "wheel":
            page.mouse.wheel(0, random_state.uniform(-100, 100))
        else:
            set_slider(random_state.choice(sliders), random_state.random())
        values.append(measure())
    if errors:
        raise InputError(f"{len(errors)} errors on the page, the first: {errors[0]}")
    return values


def resident_bytes(process: int) -> int:
    """Memory of a process that is in RAM (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    run_command_line(main)
