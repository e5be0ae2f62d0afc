"""A browser for reports: how a test starts it, moves in the page, and reads what is drawn."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import STEPS

pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A session of a headless chromium, with an empty folder as its profile."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield session
    finally:
        session.quit()


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def move(browser: Any, step: int) -> None:
    browser.execute_script(
        "const s = document.getElementById('step'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'));",
        STEPS.index(step),
    )


def until(browser: Any, condition: Any) -> Any:
    return WebDriverWait(browser, 10, poll_frequency=0.05).until(lambda _: condition())


def drawn(browser: Any, selector: str, index: int = 0) -> Any:
    """The plotly element, brought into view and drawn."""
    place = browser.find_elements(By.CSS_SELECTOR, selector)[index]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
    until(browser, lambda: browser.execute_script("return !!arguments[0].data", place))
    # A step is drawn in the next frame.
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    )
    return place


def see_all(browser: Any) -> None:
    for place in browser.find_elements(By.CSS_SELECTOR, ".plot"):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
        until(browser, lambda p=place: browser.execute_script("return !!arguments[0].data", p))


def ends(browser: Any, place: Any) -> list[float]:
    """Where the bars end, from plotly's data."""
    x: list[float] = browser.execute_script("return arguments[0].data[1].x", place)
    return x


def pixels(browser: Any, place: Any) -> np.ndarray:
    """Lengths of the bars as they are on the screen, from the SVG."""
    paths = browser.execute_script(
        "return [...arguments[0].querySelector('.scatterlayer .trace').querySelectorAll("
        "'path.js-line')].map((path) => path.getAttribute('d')).join(' ')",
        place,
    )
    points = np.array(re.findall(r"M([\d.]+),[\d.]+[LH]([\d.]+)", paths), dtype=float)
    return points[:, 1] - points[:, 0]
