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
pytest.importorskip("plotly")
pytest.importorskip("selenium")

from report_browser import chromium, drawn, ends, move, pixels, resize, see_all, until
from report_runs import HOSTILE, STEPS, hostile_vocabulary, make_run
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tsloss_fast.analysis.record.reader import read_record
from tsloss_fast.analysis.report import command as report
from tsloss_fast.analysis.report import names as report_names
from tsloss_fast.analysis.report.names import find_names, visible

pytestmark = pytest.mark.browser

BARS = "[data-kind=barcode] .plot"


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
    browser.execute_script(
        "const c = document.getElementById('cloud'); c.value = '0';"
        "c.dispatchEvent(new Event('change'));"
    )
    move(browser, STEPS[-1])
    yield
    assert browser.get_log("browser") == []


def test_the_bars_drawn_are_the_records_at_every_step_of_the_slider(
    browser: Any, run: Path
) -> None:
    records = read_record(run), read_record(run / "control")
    for step in (STEPS[-1], STEPS[2], STEPS[0]):
        move(browser, step)
        for index, record in enumerate(records):
            deaths = record.row(step)["deaths"]
            place = drawn(browser, BARS, index)
            np.testing.assert_allclose(ends(browser, place), deaths, rtol=1e-5)
            lengths = pixels(browser, place)
            np.testing.assert_allclose(lengths / lengths.max(), deaths / deaths.max(), atol=0.01)
            label = place.get_attribute("aria-label")
            assert label.startswith(f"Barcode. {len(deaths)} finite bars from ")


def test_the_tree_merges_as_scipy_does(browser: Any, run: Path) -> None:
    from scipy.cluster.hierarchy import linkage

    points = read_record(run).row(STEPS[0])["points"]
    expected = linkage(points, "single")
    move(browser, STEPS[0])
    place = drawn(browser, "[data-kind=tree] .plot")
    nodes = browser.execute_script(
        "const t = arguments[0].data[2]; return [t.x, t.hovertext]", place
    )
    np.testing.assert_allclose(nodes[0], expected[:, 2], rtol=1e-5)
    sizes = [sum(map(int, re.search(r"(\d+) \+ (\d+) tokens", text).groups())) for text in nodes[1]]  # type: ignore[union-attr]
    assert sizes == expected[:, 3].tolist()


def test_changed_merges_are_the_thick_ones(browser: Any, run: Path) -> None:
    record = read_record(run)
    place = drawn(browser, "[data-kind=tree] .plot")
    thick = browser.execute_script("return arguments[0].data[1].x.length / 5", place)
    assert thick == len(record.row(STEPS[-1])["edges_added"])
    move(browser, STEPS[0])
    drawn(browser, "[data-kind=tree] .plot")
    assert browser.execute_script("return arguments[0].data[1].x.length", place) == 0


def test_the_map_and_the_groups_follow_the_slider(browser: Any, run: Path) -> None:
    def state() -> list[Any]:
        place = drawn(browser, "[data-kind=map] .plot")
        groups = drawn(browser, "[data-kind=components] .plot")
        script = "return [arguments[0].data.at(-1).x, arguments[1].data[0].x]"
        found: list[Any] = browser.execute_script(script, place, groups)
        return found

    last = state()
    move(browser, STEPS[0])
    first = state()
    assert last[0] != first[0]
    np.testing.assert_allclose(first[1][1:-1], read_record(run).row(0)["deaths"], rtol=1e-5)
    # Points are kept at every tenth step only, and the map says of which it is.
    move(browser, 15)
    cell = browser.find_element(By.CSS_SELECTOR, "[data-kind=map] figcaption .at")
    assert cell.text == "recorded at step 10"


def test_the_slider_and_the_button_answer_to_the_keyboard(browser: Any) -> None:
    slider, play = (browser.find_element(By.ID, name) for name in ("step", "play"))
    slider.send_keys(Keys.ARROW_LEFT)
    assert browser.find_element(By.ID, "step-text").text == "step 35"
    assert slider.get_attribute("aria-valuetext") == "step 35"
    slider.send_keys(Keys.HOME)
    assert browser.find_element(By.ID, "steps-step").text == "0"
    slider.send_keys(Keys.END)
    assert browser.find_element(By.ID, "step-text").text == "step 40"
    play.send_keys(Keys.SPACE)  # from the end it begins again
    between = {f"step {step}" for step in STEPS[1:-1]}
    until(browser, lambda: browser.find_element(By.ID, "step-text").text in between)
    assert play.get_attribute("aria-label") == "Stop"
    play.send_keys(Keys.SPACE)
    assert play.get_attribute("aria-label") == "Play the steps"


def test_the_curves_show_every_run_and_where_the_slider_is(browser: Any, run: Path) -> None:
    records = read_record(run), read_record(run / "control")
    panels = browser.find_elements(By.CSS_SELECTOR, ".panel")
    assert [panel.get_attribute("data-curve") for panel in panels[:5]] == [
        "accuracy", "ce", "train_ce", "mean_lifetime", "coefficient_of_variation",
    ]  # fmt: skip
    place = drawn(browser, "[data-curve=mean_lifetime] .plot")
    control, own = browser.execute_script(
        "return arguments[0].data.map(t => [t.y, t.line.dash])", place
    )
    for (values, dash), record, style in (
        (own, records[0], "solid"),
        (control, records[1], "dash"),
    ):
        np.testing.assert_allclose(values, record.series("mean_lifetime"), rtol=1e-5)
        assert dash == style
    move(browser, 15)
    drawn(browser, "[data-curve=mean_lifetime] .plot")
    assert browser.execute_script("return arguments[0].layout.shapes[0].x0", place) == 15
    rates = drawn(browser, "[data-curve=accuracy] .plot")
    lines = browser.execute_script(
        "return arguments[0].layout.shapes.slice(1).map(s => s.y0)", rates
    )
    assert lines == [0.6, 0.5]


def test_another_cloud_can_be_chosen(browser: Any, run: Path) -> None:
    select = browser.find_element(By.ID, "cloud")
    options = select.find_elements(By.TAG_NAME, "option")
    assert [option.text for option in options] == ["prompt", "task <i>second</i>"]
    options[1].click()
    deaths = read_record(run).row(STEPS[-1], cloud=1)["deaths"]
    np.testing.assert_allclose(ends(browser, drawn(browser, BARS)), deaths, rtol=1e-5)
    shown = [box.is_displayed() for box in browser.find_elements(By.CSS_SELECTOR, "[data-cloud]")]
    assert shown == [False, True]
    assert browser.find_element(By.CSS_SELECTOR, "[data-kind=pairs] figure p").text.startswith(
        "None"
    )


def test_a_run_can_be_put_away_and_brought_back(browser: Any) -> None:
    own, control = browser.find_elements(By.CSS_SELECTOR, "#runs button")
    control.click()
    assert len(browser.find_elements(By.CSS_SELECTOR, BARS)) == 1
    own.click()  # the last one stays
    assert len(browser.find_elements(By.CSS_SELECTOR, BARS)) == 1
    control.click()
    assert len(browser.find_elements(By.CSS_SELECTOR, BARS)) == 2


def test_hostile_names_are_text_wherever_they_are_shown(browser: Any) -> None:
    see_all(browser)
    table = browser.find_element(By.CSS_SELECTOR, "[data-kind=pairs] table")
    assert visible(HOSTILE[2]) in table.get_attribute("textContent")
    browser.execute_script("document.querySelector('[data-kind=barcode] details').open = true")
    until(browser, lambda: visible(HOSTILE[0]) in browser.execute_script(
        "return document.querySelector('[data-kind=barcode] details').textContent"))  # fmt: skip
    # As the labels of the tree they are whole up to the length that fits.
    move(browser, STEPS[0])
    place = drawn(browser, "[data-kind=tree] .plot")
    ticks = browser.execute_script(
        "return [...arguments[0].querySelectorAll('.ytick text')].map(t => t.textContent)", place
    )
    for name in ("a&amp;b & 'c'…", "שלום", "%{x} $x^2$", "\\", "</script><b>"):
        assert any(name in tick for tick in ticks), (name, ticks)
    strange = "return document.querySelectorAll('main img, main a, main b, main i, svg a').length"
    assert browser.execute_script(strange) == 0
    assert browser.execute_script("return window.hacked === undefined")
    # Hovering writes another label.
    browser.execute_script(
        "Plotly.Fx.hover(arguments[0], [{curveNumber: 2, pointNumber: 0}])", place
    )
    until(browser, lambda: browser.execute_script(
        "return !!arguments[0].querySelector('.hoverlayer text')", place))  # fmt: skip
    assert browser.execute_script(strange) == 0


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(browser: Any, width: int) -> None:
    resize(browser, width)
    until(browser, lambda: browser.execute_script("return innerWidth") == width)
    see_all(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    script = """
        return [...document.querySelectorAll('.plot')].filter((plot) =>
            Math.abs(plot.querySelector('.main-svg').clientWidth - plot.clientWidth) > 1
            || plot.getBoundingClientRect().right > arguments[0]).length"""
    assert until(browser, lambda: browser.execute_script(script, width) == 0)


def test_it_prints_with_every_figure_within_the_paper(browser: Any) -> None:
    script = """
        window.dispatchEvent(new Event('beforeprint'));
        const figures = [...document.querySelectorAll('.plot')].map((p) => p.querySelector('svg'));
        const paper = figures.map((svg) => svg ? svg.getBoundingClientRect().right : -1);
        const limit = document.querySelector('main').getBoundingClientRect().right;
        window.dispatchEvent(new Event('afterprint'));
        return [paper, limit]"""
    right, limit = browser.execute_script(script)
    assert limit <= 190 / 25.4 * 96
    # All are drawn, those too that were never seen, and none reaches over the edge.
    assert all(0 < x <= limit + 1 for x in right)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    pdf = base64.b64decode(printed["data"])
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 9
    assert not browser.execute_script(
        "return document.documentElement.classList.contains('printing')"
    )


def test_no_request_leaves_the_page(browser: Any) -> None:
    see_all(browser)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    # A new window asks its own browser for things before the page is opened.
    urls = [e["request"]["url"] for e in sent if e["documentURL"].startswith("file:")]
    assert len([url for url in urls if not url.startswith(("data:", "blob:"))]) == 1
    assert urls[0] == browser.current_url
    # The policy of the page is in force: a request is refused.
    refused = browser.execute_async_script(
        "const done = arguments[0];"
        "fetch('http://127.0.0.1:9/').then(() => done('sent'), (e) => done(String(e)))"
    )
    assert "TypeError" in refused
    assert any(
        "Content Security Policy" in entry["message"] for entry in browser.get_log("browser")
    )
