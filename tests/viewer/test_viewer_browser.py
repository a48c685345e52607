"""The viewer in a headless browser: what a person sees and does."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from rf_jax.images.files import load_exr, load_png
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import load_scene
from tests.viewer.fakes import FakeRenderer

pytest.importorskip("viser", reason="the viewer needs the extra view")
pytest.importorskip("playwright", reason="driving a browser needs the extra test")

from rf_jax.studies import viewer_rate as browser
from rf_jax.viewer.loop import Settings
from rf_jax.viewer.server import Viewer
from rf_jax.viewer.state import open_scene

if browser.find_browser() is None:
    pytest.skip(f"no browser: none of {', '.join(browser.BROWSERS)}", allow_module_level=True)


@pytest.fixture(scope="module")
def bundled():
    return Renderer.from_pretrained()


@pytest.fixture
def serve(tmp_path):
    """Starts a viewer of the Cornell box with a renderer."""
    viewers = []

    def start(renderer, scene="cornell_box", **options):
        settings = Settings(64, 32, **options)
        edited = open_scene(scene, renderer)
        viewers.append(Viewer(lambda _: renderer, edited, settings, tmp_path, port=0))
        return viewers[-1]

    yield start
    for viewer in viewers:
        viewer.close()


def settled(page, after=0):
    """Waits for `after` images, and then until no new one has come for a while."""
    page.wait_for_function(f"() => window.shown >= {after}", timeout=60_000)
    count = -1
    while count != (count := browser.images_shown(page)):
        page.wait_for_timeout(700)
    return count


def until(page, is_true):
    """Waits until something is true, two minutes at most."""
    end = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < end, "it did not become true in two minutes"
        page.wait_for_timeout(100)


def picture(page):
    """What the canvas shows, float [H, W, 3]."""
    clip = page.locator("canvas").first.bounding_box()
    data = page.screenshot(clip=clip)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)


@pytest.mark.slow
def test_a_person_looks_changes_and_saves(serve, bundled, tmp_path):
    viewer = serve(bundled)
    with browser.browser_page(viewer.url, 900, 640) as page:
        page.locator("button:near(:text('Software WebGL'))").first.click()
        settled(page)
        first = picture(page)

        page.mouse.move(*browser.beside_objects(page))
        page.mouse.down()
        page.mouse.move(browser.beside_objects(page)[0] + 25, 560, steps=5)
        page.mouse.up()
        until(page, lambda: np.abs(picture(page) - first).mean() > 3)
        shown = settled(page)
        turned = picture(page)

        page.get_by_text("back_wall", exact=True).first.click()
        browser.set_slider(browser.slider(page, "back_wall", "diffuse"), 0.05)
        until(page, lambda: picture(page).mean() < turned.mean() - 3)
        assert max(viewer.loop.edited.objects["back_wall"].material.diffuse) < 0.2
        shown = settled(page, shown + 1)

        page.mouse.click(*browser.on_page(page, (-0.17, 0.14, 0.0)))  # on the tall box
        browser.wait_for_handles(page)
        x, y = browser.arrow(page)
        page.mouse.move(x, y)
        page.wait_for_timeout(1000)
        page.mouse.down()
        page.mouse.move(x + 60, y, steps=5)
        page.mouse.up()
        before = load_scene("cornell_box")
        box = before.objects == before.object_names.index("tall_box")

        def moved():
            return np.abs(viewer.loop.edited.scene.triangles - before.triangles)

        until(page, lambda: moved()[box].max() > 0.05)
        settled(page, shown + 1)
        assert moved()[~box].max() == 0

        page.get_by_text("64x64 pixels").wait_for()  # the image is still
        for button, names in (("image", ["exr", "png"]), ("scene", ["json"])):
            page.get_by_role("button", name=button, exact=True).or_(
                page.get_by_text(button, exact=True)
            ).last.click()
            page.get_by_text(f"cornell_box_{button}.{names[-1]}").last.wait_for()
            for name in names:
                assert (tmp_path / f"cornell_box_{button}.{name}").exists()
        page.wait_for_timeout(300)
    image = load_exr(tmp_path / "cornell_box_image.exr")
    assert load_png(tmp_path / "cornell_box_image.png").shape == image.shape == (64, 64, 3)
    saved = load_scene(tmp_path / "cornell_box_scene.json")
    np.testing.assert_allclose(bundled.render(saved)[0, 0], image, rtol=0.02, atol=0.02)


def dots(points):
    """A painter of white squares where points [n, 3] are seen."""

    def paint(pose, fov, side):
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        image = np.zeros((side, side, 3), np.float32)
        scale = side / 2 / np.tan(np.radians(fov) / 2)
        columns, rows = (
            (side / 2 + sign * scale * local[:, axis] / -local[:, 2]).astype(int)
            for axis, sign in ((0, 1), (1, -1))
        )
        for row, column in zip(rows, columns, strict=True):
            image[max(row, 0) : row + 1, max(column, 0) : column + 1] = 1
        return image

    return paint


def test_the_lines_of_the_page_meet_the_image(serve, monkeypatch):
    """A vertex is drawn by WebGL where the image shows it, on a canvas of any shape."""
    monkeypatch.setattr("rf_jax.viewer.objects.MANY", 3)
    point = np.array([[0.21, -0.13, 0.17]])
    viewer = serve(FakeRenderer(dots(point)))
    viewer.loop.change_settings(resolution=512, moving=512)
    with browser.browser_page(viewer.url, 877, 613) as page:

        def meets():
            bright = picture(page).min(axis=-1)
            bright[:170, :330] = 0  # the page's note about WebGL
            bright[-90:, :90] = 0  # its axes
            bright = np.where(bright > 100, bright, 0)
            if not bright.any():
                return False
            y = np.average(np.arange(len(bright)) + 0.5, weights=bright.sum(axis=1))
            x = np.average(np.arange(bright.shape[1]) + 0.5, weights=bright.sum(axis=0))
            # A pixel of the image is 1.2 pixels wide on the page
            return np.allclose((x, y), browser.on_page(page, point[0]), rtol=0, atol=1.3)

        shown = 0
        for azimuth in (0.0, 0.3):
            page.evaluate(
                "a => window.__viserMutable.cameraControl.rotate(a, a / 2, false)", azimuth
            )
            shown = settled(page, shown + 1 if azimuth else 0)
            until(page, meets)

        # There are many objects: only what is chosen has sliders
        page.get_by_text("7 objects").wait_for()
        assert not page.get_by_text("roughness", exact=True).count()
        browser.choose(page, "short_box")
        page.get_by_text("roughness", exact=True).wait_for()


def test_two_pages_share_the_scene_and_have_a_camera_each(serve):
    viewer = serve(FakeRenderer())
    with browser.browser_page(viewer.url, 700, 500) as page:
        other = page.context.new_page()
        other.goto(viewer.url)
        other.wait_for_function(f"() => {browser.PICTURE} != null")
        other.evaluate(browser.COUNT)
        settled(other)
        first, second = viewer.loop._pages.values()
        before = first.view.camera_to_world, second.view.camera_to_world
        page.bring_to_front()
        page.evaluate("() => window.__viserMutable.cameraControl.rotate(0.5, 0, false)")
        until(page, lambda: np.abs(first.view.camera_to_world - before[0]).max() > 0.3)
        np.testing.assert_allclose(second.view.camera_to_world, before[1], atol=1e-5)
        page.get_by_text("floor", exact=True).first.click()
        browser.set_slider(browser.slider(page, "floor", "roughness"), 0.5)
        other.bring_to_front()
        other.get_by_text("floor", exact=True).first.click()
        roughness = browser.slider(other, "floor", "roughness").locator("[role=slider]")
        other.wait_for_function(
            "slider => Math.abs(slider.getAttribute('aria-valuenow') - 0.5) < 0.1",
            arg=roughness.element_handle(),
        )
        value = float(roughness.get_attribute("aria-valuenow"))
        until(
            page,
            lambda: viewer.loop.edited.objects["floor"].material.roughness == pytest.approx(value),
        )

        assert not other.get_by_text("no triangle emits").count()
        other.get_by_text("light", exact=True).first.click()
        browser.set_slider(browser.slider(other, "light", "emission"), 0.0)
        for each in (page, other):  # both say what the weights did not see
            each.get_by_text("no triangle emits").wait_for()


def test_a_scene_without_objects_and_a_refused_setting(serve, tmp_path):
    from rf_jax.scene import save_h5

    save_h5(load_scene("cornell_box"), tmp_path / "scene.h5")
    viewer = serve(FakeRenderer(), tmp_path / "scene.h5")
    with browser.browser_page(viewer.url, 700, 500) as page:
        page.get_by_text("names no objects").wait_for()
        page.get_by_text("Wireframe", exact=True).wait_for()
        viewer.loop.change_settings(resolution=33)
        page.get_by_text("expected a positive multiple of 4, found 33").wait_for()
        page.evaluate("() => window.__viserMutable.sendMessage({type: 'ShareUrlRequest'})")
        page.wait_for_timeout(300)
        assert viewer.server._share_tunnel is None  # no address in the open
