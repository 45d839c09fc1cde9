"""A report opened in the system's Chromium, and what it shows.

playwright drives the browser that Debian packages; playwright's own are not needed.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
LAPTOP = {"width": 1280, "height": 800}


@contextmanager
def opened(browser, path, size=LAPTOP):
    """Yields the page, drawn; in the end it has complained of nothing and loaded nothing else."""
    context = browser.new_context(viewport=size, offline=True)
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.set_default_timeout(180_000)  # where many tests share two cores
    page.goto(path.as_uri())
    page.wait_for_selector("footer")
    try:
        yield page
        assert complaints == []
        assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    finally:
        context.close()


def plot(page, name, which=0):
    """Returns what plotly draws in a panel: its traces and its layout."""
    return page.locator(f"figure[data-name$='{name}'] .plot").nth(which).evaluate(
        "node => ({data: node.data, layout: node.layout})"
    )  # fmt: skip


def named(page, name, trace, which=0):
    """Returns the values of one curve, by the name that the legend has."""
    (found,) = [t for t in plot(page, name, which)["data"] if t.get("name") == trace]
    return found["y"]


def picture(page, name):
    """Returns the panel as it looks."""
    return page.locator(f"figure[data-name$='{name}']").first.screenshot()


def csv_of(page, scope):
    """Presses a panel's CSV button and returns the file's rows."""
    with page.expect_download() as download:
        scope.locator("button.csv").first.click()
    text = download.value.path().read_text("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def selector(page, label):
    return page.locator("label", has_text=re.compile(f"^{label}")).locator("select")


def fits(page):
    width, inside = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    return width <= inside
