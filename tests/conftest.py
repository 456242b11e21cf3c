import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from xdist.scheduler import LoadScopeScheduling

from companion.arithmetic.gpt2 import gpt2

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class OneBook(LoadScopeScheduling):
    """Of several processes (`-n`), one has the tests of the book, and has them first: it builds the book once."""

    def _split_scope(self, nodeid: str) -> str:
        return "book" if nodeid.startswith("tests/book/") else nodeid  # any other test goes where there is time


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneBook:
    return OneBook(config, log)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(20230505)


@pytest.fixture
def tiny_gpt2():
    """Builds small GPT-2 models."""

    def build(seed=0, *, n_layer=1, vocab=13, n_embd=16, n_head=2, **sizes):
        return gpt2(vocab=vocab, n_layer=n_layer, n_embd=n_embd, n_head=n_head, seed=seed, **sizes)

    return build


@pytest.fixture(scope="session")
def html(tmp_path_factory) -> Path:
    """The book, built with warnings as errors from the working tree into a folder of its own.

    Its notebooks are those executed last, at any scale, or the sources where none was.
    """
    folder = tmp_path_factory.mktemp("book")
    for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
        shutil.copy(ROOT / name, folder)
    for name in ("book", "notebooks", "params", "results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("runs", "__pycache__"))
    (folder / "book" / "runs").mkdir()
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        executed = [ROOT / "book" / "runs" / source.name, ROOT / "runs" / "smoke" / source.name]
        shutil.copy(next((path for path in executed if path.is_file()), source), folder / "book" / "runs")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "-n", "--keep-going"],
        cwd=folder, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    said = done.stdout + done.stderr
    wrong = [line for line in said.splitlines() if re.search("warning|error", line, re.IGNORECASE)]
    assert done.returncode == 0, "\n".join([*wrong[:20], "...", said[-1000:]])
    return folder / "_build" / "html"


def chromium() -> str | None:
    """A Chromium or Chrome of this machine; None leaves it to the one that playwright keeps."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium without a window.

    For one module only: while it is there, an event loop runs, and nothing else can start one.
    """
    with sync_playwright() as playwright:
        path = chromium() or playwright.chromium.executable_path
        if not Path(path).is_file():
            told = "no Chromium: install one, or run `playwright install --no-shell chromium`"
            # In continuous integration a skip would not be noticed.
            pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
        # The sandbox cannot be had as root; the pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def fresh_context(browser: Browser, width: int = 1280, **settings: Any) -> BrowserContext:
    """A context without a network, in which nothing is kept from another one."""
    context = browser.new_context(
        **{"viewport": {"width": width, "height": 900}, "reduced_motion": "reduce", "offline": True} | settings
    )
    context.set_default_timeout(120_000)  # a machine that others use, too, stands still for seconds
    return context
