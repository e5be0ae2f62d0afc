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
    settle(browser)


def settle(browser: Any) -> None:
    """Wait until a step is drawn, which is in the next frame."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    )


def move(browser: Any, step: int) -> None:
    browser.execute_script(
        "const s = document.getElementById('step'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'));",
        STEPS.index(step),
    )
    settle(browser)


def until(browser: Any, condition: Any) -> Any:
    return WebDriverWait(browser, 10, poll_frequency=0.05).until(lambda _: condition())


def plots(browser: Any, kind: str) -> list[Any]:
    found: list[Any] = browser.find_elements(By.CSS_SELECTOR, f"[data-kind={kind}] .plot")
    return found


def ticks(browser: Any, plot: Any, along: str = "x") -> dict[str, float]:
    """The numbers at an axis of a figure, and where they stand in its SVG."""
    kind = {"x": "tick", "y": "end"}[along]
    found: list[list[str]] = browser.execute_script(
        f"return [...arguments[0].querySelectorAll('.{kind}')]"
        f".map((t) => [t.textContent, t.getAttribute('{along}')])",
        plot,
    )
    # The number of a row stands a little below its line.
    return {text: float(place) - (4 if along == "y" else 0) for text, place in found}


def values(browser: Any, plot: Any, path: str) -> np.ndarray:
    """The places (K, 2) of a path in a figure, in the numbers of its axes; rows are pixels."""
    d = browser.execute_script(
        "return arguments[0].querySelector(arguments[1])?.getAttribute('d') ?? ''", plot, path
    )
    points = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", d), dtype=float).reshape(-1, 2)
    for column, along in enumerate("xy"):
        axis = ticks(browser, plot, along)
        if all(re.fullmatch(r"[−\d.e]+", text) for text in axis):
            numbers = [float(text.replace("−", "-")) for text in axis]
            slope, start = np.polyfit(list(axis.values()), numbers, 1)
            points[:, column] = slope * points[:, column] + start
    return points
