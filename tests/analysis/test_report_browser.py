"""A report in a real browser: what is drawn, what the keyboard does, what is printed."""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("jinja2")
pytest.importorskip("selenium")

from report_browser import choose, chromium, move, plots, resize, settle, ticks, until, values
from report_runs import HOSTILE, STEPS, hostile_vocabulary, make_run
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tsloss_fast.analysis.record.reader import read_record
from tsloss_fast.analysis.report import command as report
from tsloss_fast.analysis.report import names as report_names
from tsloss_fast.analysis.report.names import find_names, visible

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "run"
    clouds = ["prompt", "task <i>second</i>"]
    make_run(folder, clouds=clouds)
    return make_run(folder / "control", loss="ce", seed=1, clouds=clouds).parent


@pytest.fixture(scope="module")
def browser(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    load = functools.partial(find_names, load=lambda name: hostile_vocabulary())
    with patch.object(report_names, "find_names", load):
        page = report.write_report([run], run / "report.html")
    with chromium(tmp_path_factory.mktemp("profile")) as session:
        session.get(page.as_uri())
        yield session


@pytest.fixture(autouse=True)
def from_the_start(browser: Any) -> Iterator[None]:
    """Each test finds a wide window and the last step of the first cloud, and leaves no error."""
    resize(browser, 1280)
    choose(browser, "cloud", 0)
    move(browser, STEPS[-1])
    yield
    assert browser.get_log("browser") == []


def test_the_bars_drawn_are_the_records_at_every_step_of_the_slider(
    browser: Any, run: Path
) -> None:
    records = read_record(run), read_record(run / "control")
    for step in (STEPS[-1], STEPS[2], STEPS[0]):
        move(browser, step)
        for plot, record in zip(plots(browser, "bars")[::2], records, strict=True):
            deaths = record.row(step)["deaths"]
            ends = values(browser, plot, ".bars")
            np.testing.assert_allclose(ends[::2, 0], 0, atol=0.01)
            # A bar is at least as long as a pixel, and a pixel is 0.02 here.
            np.testing.assert_allclose(ends[1::2, 0], deaths, atol=0.02)
            label = plot.get_attribute("aria-label")
            assert label.startswith(f"Barcode: {len(deaths)} finite bars from ")


def test_the_tree_merges_as_scipy_does_and_the_arrow_keys_tell_it(browser: Any, run: Path) -> None:
    from scipy.cluster.hierarchy import linkage

    expected = linkage(read_record(run).row(STEPS[0])["points"], "single")
    move(browser, STEPS[0])
    tree, tip = plots(browser, "bars")[1], browser.find_element(By.ID, "tip")
    distances, sizes = [], []
    for _ in expected:
        tree.send_keys(Keys.ARROW_RIGHT)
        first, second, at = re.search(r"(\d+) \+ (\d+) tokens merge at ([\d.]+)", tip.text).groups()  # type: ignore[union-attr]
        sizes.append(int(first) + int(second))
        distances.append(float(at))
    np.testing.assert_allclose(distances, expected[:, 2], rtol=5e-3)
    assert sizes == expected[:, 3].tolist()
    crossbars = values(browser, tree, ".line").reshape(-1, 4, 2)[:, 1, 0]
    np.testing.assert_allclose(crossbars, expected[:, 2], atol=0.02)
    tree.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_barcodes_and_trees_of_all_runs_share_one_axis(browser: Any, run: Path) -> None:
    records = read_record(run), read_record(run / "control")
    move(browser, 10)  # no two tokens nearly coincide there
    for zoomed in (False, True):
        axes = [ticks(browser, plot) for plot in plots(browser, "bars")]
        assert len(axes) == 4
        assert all(axis == axes[0] for axis in axes)
        assert ("0" in axes[0]) != zoomed
        for k, plot in enumerate(plots(browser, "bars")):
            # What lies outside of the axis would end with it.
            paths = [values(browser, plot, path) for path in (".bars, .line", ".fresh")]
            ends = np.sort(np.concatenate(paths)[1 :: 4 if k % 2 else 2, 0])
            deaths = records[k // 2].row(10)["deaths"]
            np.testing.assert_allclose(ends, deaths, atol=0.02)
            said = plot.find_element(By.CSS_SELECTOR, ".title").text
            assert ("does not begin at 0" in said) == zoomed
        browser.find_element(By.ID, "zoom").click()
        settle(browser)


def test_changed_merges_are_the_thick_ones(browser: Any, run: Path) -> None:
    for step, changed in ((20, len(read_record(run).row(20)["edges_added"])), (STEPS[0], 0)):
        move(browser, step)
        assert len(values(browser, plots(browser, "bars")[1], ".fresh")) == 4 * changed


def test_the_map_and_the_groups_follow_the_slider(browser: Any, run: Path) -> None:
    def state() -> tuple[list[str], np.ndarray]:
        script = "return [...arguments[0].querySelectorAll('.point')].map((c) => c.outerHTML)"
        points = browser.execute_script(script, plots(browser, "map")[0])
        # The first run is drawn last.
        return points, values(browser, plots(browser, "groups")[0], ".line:last-of-type")

    last, _ = state()
    move(browser, STEPS[0])
    first, groups = state()
    assert len(first) == len(last) == 12
    assert first != last
    np.testing.assert_allclose(groups[1:-1:2, 0], read_record(run).row(0)["deaths"], atol=0.02)
    np.testing.assert_allclose(groups[:-1:2, 1], range(12, 0, -1), atol=0.05)
    np.testing.assert_allclose(groups[1::2, 1], range(12, 0, -1), atol=0.05)
    # Points are kept at every tenth step only, and the map says of which it is.
    move(browser, 15)
    notes = browser.find_elements(By.CSS_SELECTOR, "[data-kind=map] figcaption .note")
    assert [note.text for note in notes] == ["recorded at step 10"] * 2


def test_the_slider_and_the_button_answer_to_the_keyboard(browser: Any) -> None:
    found = (browser.find_element(By.ID, name) for name in ("step", "step-text", "play"))
    slider, text, play = found
    for key, step in ((Keys.ARROW_LEFT, 35), (Keys.HOME, 0), (Keys.END, 40)):
        slider.send_keys(key)
        assert text.text == slider.get_attribute("aria-valuetext") == f"step {step}"
    play.send_keys(Keys.SPACE)  # from the end it begins again
    until(browser, lambda: text.text in {f"step {step}" for step in STEPS[1:-1]})
    assert play.get_attribute("aria-label") == "Stop"
    play.send_keys(Keys.SPACE)
    assert play.get_attribute("aria-label") == "Play the steps"


def test_the_curves_show_every_run_and_where_the_slider_is(browser: Any, run: Path) -> None:
    move(browser, 15)
    place = browser.find_element(By.CSS_SELECTOR, "[data-curve=mean_lifetime] .plot")
    for folder, path in ((run, ".line:not([stroke-dasharray*=' '])"), (run / "control", ".line")):
        expected = read_record(folder).series("mean_lifetime")
        drawn = values(browser, place, path)
        np.testing.assert_allclose(drawn, np.column_stack((STEPS, expected)), atol=0.1)
    upright = place.find_element(By.CSS_SELECTOR, ".upright").get_attribute("x1")
    start, end = (ticks(browser, place)[text] for text in ("0", "40"))
    assert float(upright) == pytest.approx(start + 15 / 40 * (end - start), abs=0.1)
    rates = browser.find_element(By.CSS_SELECTOR, "[data-curve=accuracy] .plot")
    level = values(browser, rates, ".rate")[:, 1]
    np.testing.assert_allclose(level, 0.6, atol=0.01)
    assert "0.6" in browser.find_element(By.CSS_SELECTOR, "[data-curve=accuracy] .says").text


def test_another_cloud_can_be_chosen(browser: Any, run: Path) -> None:
    options = browser.find_elements(By.CSS_SELECTOR, "#cloud option")
    assert [option.text for option in options] == ["prompt", "task <i>second</i>"]
    options[1].click()
    settle(browser)
    deaths = read_record(run).row(STEPS[-1], cloud=1)["deaths"]
    drawn = values(browser, plots(browser, "bars")[0], ".bars")[1::2, 0]
    np.testing.assert_allclose(drawn, deaths, atol=0.02)
    shown = [box.is_displayed() for box in browser.find_elements(By.CSS_SELECTOR, "[data-cloud]")]
    assert shown == [False, True]
    assert not browser.find_elements(By.CSS_SELECTOR, "[data-kind=pairs] .bad")


def test_a_run_can_be_put_away_and_brought_back(browser: Any) -> None:
    own, control = browser.find_elements(By.CSS_SELECTOR, "#runs button")
    # The last one stays.
    for button, figures in ((control, 2), (own, 2), (control, 4)):
        button.click()
        assert len(plots(browser, "bars")) == figures


def test_a_link_of_the_table_opens_the_words_of_its_run(browser: Any) -> None:
    card = browser.find_element(By.ID, "run-1")
    settle(browser, "arguments[0].open = false", card)
    browser.find_element(By.CSS_SELECTOR, "#summary a[href='#run-1']").click()
    until(browser, lambda: card.get_attribute("open"))


def test_hostile_names_are_text_wherever_they_are_shown(browser: Any) -> None:
    # Only the first of the ten nearest pairs nearly coincides.
    rows = browser.find_elements(By.CSS_SELECTOR, "[data-kind=pairs] figure:first-child tbody tr")
    assert [row.get_attribute("class") for row in rows] == ["bad"] + 9 * [""]
    assert visible(HOSTILE[2]) in rows[0].text
    assert any(visible(HOSTILE[0]) in row.text for row in rows)
    # As the labels of the tree they are whole up to the length that fits.
    move(browser, STEPS[0])
    tree = plots(browser, "bars")[1]
    labels = list(ticks(browser, tree, "y"))
    for name in ("a&amp;b & 'c…", "שלום", "%{x} $x^2$", "\\", "</script><b>"):
        assert any(label.startswith(f"\u2068{name}\u2069 ") for label in labels), (name, labels)
    for _ in HOSTILE:
        tree.send_keys(Keys.ARROW_RIGHT)
    assert browser.find_element(By.ID, "tip").text
    strange = "img, main b, main i, svg a, a[href^=javascript]"
    assert browser.find_elements(By.CSS_SELECTOR, strange) == []
    assert browser.execute_script("return window.hacked === undefined")


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(browser: Any, width: int) -> None:
    resize(browser, width)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    script = """
        return [...document.querySelectorAll('.plot svg')].filter((svg) =>
            Math.abs(svg.viewBox.baseVal.width - svg.parentNode.clientWidth) > 1
            || svg.getBoundingClientRect().right > arguments[0]).length"""
    assert browser.execute_script(script, width) == 0


def luminance(colour: list[float]) -> float:
    part = np.array(colour) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_the_light_and_in_the_dark(browser: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    found = browser.execute_script("""
        const rgb = (e, name) => getComputedStyle(e)[name].match(/[\\d.]+/g).map(Number);
        const ground = (e) => rgb(e, 'backgroundColor')[3] === 0 ? ground(e.parentElement)
            : rgb(e, 'backgroundColor').slice(0, 3);
        return [...document.querySelectorAll('main :not(noscript, option, .inside)')]
            .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.data?.trim()))
            .map((e) => [rgb(e, e.closest('svg') ? 'fill' : 'color').slice(0, 3), ground(e)])""")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(found) > 100
    assert (luminance(found[0][1]) < 0.1) == (scheme == "dark")
    for colours in found:
        dark, light = sorted(map(luminance, colours))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colours


def test_it_prints_with_every_figure_within_the_paper(browser: Any) -> None:
    script = """
        window.dispatchEvent(new Event('beforeprint'));
        const paper = [...document.querySelectorAll('.plot svg')].map((svg) =>
            [svg.getBoundingClientRect().right, svg.viewBox.baseVal.width - svg.clientWidth]);
        const limit = document.querySelector('main').getBoundingClientRect().right;
        window.dispatchEvent(new Event('afterprint'));
        return [paper, limit]"""
    figures, limit = browser.execute_script(script)
    assert limit <= 190 / 25.4 * 96
    assert len(figures) > 15
    assert all(0 < right <= limit + 1 and abs(scaled) <= 1 for right, scaled in figures)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    pdf = base64.b64decode(printed["data"])
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 9
    assert not browser.find_elements(By.CSS_SELECTOR, ".printing")


def test_no_request_leaves_the_page(browser: Any) -> None:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    # A new window asks its own browser for things before the page is opened.
    urls = [e["request"]["url"] for e in sent if e["documentURL"].startswith("file:")]
    assert [url for url in urls if not url.startswith("data:")] == [
        browser.current_url.split("#")[0]
    ]
    # The policy of the page is in force: a request is refused.
    refused = browser.execute_async_script(
        "const done = arguments[0];"
        "fetch('http://127.0.0.1:9/').then(() => done('sent'), (e) => done(String(e)))"
    )
    assert "TypeError" in refused
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]
