"""MLflow's pages in a browser: opened as a person would, and what a person reads there.

As a command it draws the pictures of docs/mlflow.md: python -m tests.helpers.mlflow_pages SERVER EXPERIMENT_NUMBER
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image

from tasks.checks import answers
from tests.helpers import chromium as browser
from tests.helpers.chromium import Page, chromium
from tests.helpers.paths import ROOT

SECONDS = 300.0
"""Seconds for one of MLflow's pages to show what is waited for."""

ASSISTANT = "[data-component-id='mlflow.assistant.chat_panel.close']"


class MlflowPages:
    """A tab on a server of MLflow."""

    def __init__(self, page: Page, server: str) -> None:
        self.page = page
        self.server = server
        browser.TIMEOUT_SECONDS = SECONDS
        page.look(width=1500, height=560)

    def open(self, address: str, shows: str) -> str:
        """Open an address and wait for a text; returns all that the page shows."""
        self.page.call("Page.navigate", url="about:blank")
        self.page.call("Page.navigate", url=address)
        self.page.wait_for(f"document.body?.innerText.includes({shows!r})")
        self.page.wait_for(f'document.querySelector("{ASSISTANT}") || localStorage.length')
        self.page.evaluate(f'document.querySelector("{ASSISTANT}")?.click()')
        time.sleep(1)  # the page moves into the place of the panel
        return self.text()

    def text(self) -> str:
        """All that the page shows."""
        return str(self.page.evaluate("document.body.innerText"))

    def run_list(self, address: str) -> list[dict[str, str]]:
        """Open the list of runs; returns its rows, by the names of the columns, as a person sees them."""
        self.open(address, "matching runs")
        self.page.wait_for("document.querySelector('.ag-row [col-id^=\"metrics\"]')?.innerText")
        rows = self.page.evaluate(
            "(() => { const rows = {}; for (const cell of document.querySelectorAll('.ag-row .ag-cell')) {"
            "const row = rows[cell.closest('.ag-row').getAttribute('row-index')] ??= {};"
            "row[cell.getAttribute('col-id')] = cell.innerText.trim().split('\\n').at(-1); }"
            "return Object.values(rows); })()"
        )
        return list(rows)

    def compare_first_two(self) -> str:
        """Tick the first two runs of the list and press Compare, as a person does; returns what the page shows."""
        for row in (0, 1):
            self.page.click(f".ag-row[row-index='{row}'] input[type=checkbox]")
        self.page.wait_for("document.querySelector('[data-testid=runs-compare-button]')?.disabled === false")
        self.page.click("[data-testid=runs-compare-button]")
        self.page.wait_for("document.body.innerText.includes('Show diff only')")
        time.sleep(1)
        return self.text()


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A server on the store in a folder; yields its address."""
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *store], cwd=folder, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        address = f"http://127.0.0.1:{port}"
        while not answers(f"{address}/health", seconds=2):
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "MLflow's server does not start"
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


def _smaller(picture: Path) -> None:
    """The same picture in 64 colours."""
    with Image.open(picture) as shown:
        shown.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)


def draw(server: str, experiment: str, folder: Path) -> None:
    """Draw the pictures of the documents."""
    address = f"{server}/#/experiments/{experiment}/runs?viewStateShareKey=results&workflowType=machine_learning"
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as page:
        pages = MlflowPages(page, server)
        pages.run_list(address)
        page.evaluate("[...document.querySelectorAll('[aria-label=\"Hide banner\"]')].forEach((b) => b.click())")
        time.sleep(1)
        page.screenshot(folder / "mlflow-runs.png")
        pages.compare_first_two()
        for _ in range(2):
            page.evaluate(
                "[...document.querySelectorAll('button[role=switch]')].find((s) => s.ariaChecked !== 'true')?.click()"
            )
        page.look(width=1500, height=900)
        page.evaluate("[...document.querySelectorAll('*')].find((e) => e.innerText === 'Parameters')?.scrollIntoView()")
        time.sleep(2)
        page.screenshot(folder / "mlflow-compare.png")
        runs = MlflowClient(server).search_runs([experiment], "tags.role = 'tuned' and tags.replaced_by IS NULL")
        run = f"{server}/#/experiments/{experiment}/runs/{runs[0].info.run_id}"
        pages.open(f"{run}?workflowType=machine_learning", "Description")
        time.sleep(2)
        page.screenshot(folder / "mlflow-model.png")
    for picture in folder.glob("mlflow-*.png"):
        _smaller(picture)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2], ROOT / "docs/images")
