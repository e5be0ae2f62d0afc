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
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
)


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A session of a headless chromium, with an empty folder as its profile."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield session
    finally:
        session.quit()


def settle(browser: Any, script: str = "", *arguments: Any) -> None:
    """Run a script, and wait until its step is drawn, which is in the next frame."""
    wait = "requestAnimationFrame(() => requestAnimationFrame([...arguments].pop()))"
    browser.execute_async_script(f"{script}; {wait}", *arguments)


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    settle(browser)


def choose(browser: Any, name: str, value: int) -> None:
    """Set the control of that name as its user would."""
    script = "const control = document.getElementById(arguments[0]); control.value = arguments[1];"
    events = "['input', 'change'].forEach((name) => control.dispatchEvent(new Event(name)))"
    settle(browser, script + events, name, value)


def move(browser: Any, step: int) -> None:
    choose(browser, "step", STEPS.index(step))


def until(browser: Any, condition: Any) -> Any:
    return WebDriverWait(browser, 10, poll_frequency=0.05).until(lambda _: condition())


def plots(browser: Any, kind: str) -> list[Any]:
    found: list[Any] = browser.find_elements(By.CSS_SELECTOR, f"[data-kind={kind}] .plot")
    return found


def ticks(browser: Any, plot: Any, along: str = "x") -> dict[str, float]:
    """The labels of an axis of a figure, and where they stand in its SVG."""
    script = f"""return [...arguments[0].querySelectorAll('.{"tick" if along == "x" else "end"}')]
        .map((text) => [text.textContent, Number(text.getAttribute('{along}'))])"""
    # The label of a row stands 4 below its line.
    down = 4 if along == "y" else 0
    return {text: place - down for text, place in browser.execute_script(script, plot)}


def values(browser: Any, plot: Any, path: str) -> np.ndarray:
    """The places (K, 2) of a path in a figure, in the numbers of its axes; rows are pixels."""
    script = "return arguments[0].querySelector(arguments[1])?.getAttribute('d') ?? ''"
    places = re.findall(r"[ML]([\d.]+) ([\d.]+)", browser.execute_script(script, plot, path))
    points = np.array(places, dtype=float).reshape(-1, 2)
    for column, along in enumerate("xy"):
        axis = ticks(browser, plot, along)
        if all(re.fullmatch(r"[\d.]+", text) for text in axis):
            slope, start = np.polyfit(list(axis.values()), list(map(float, axis)), 1)
            points[:, column] = slope * points[:, column] + start
    return points
