"""A page as Chromium shows it, at the widths of a phone and of a desk, with every address it asks for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Runs in a copy of the page: the page itself forbids scripts.
_PROBE = """<script>
addEventListener("load", async () => {
  const pictures = [...document.images];
  await Promise.allSettled(pictures.map(each => each.decode()));
  const wide = [...document.querySelectorAll("body *")].filter(each =>
    !each.closest(".wide") && !each.closest("svg") && each.getBoundingClientRect().right > innerWidth + 0.5);
  parent.postMessage({
    width: innerWidth, scroll_width: document.documentElement.scrollWidth, pictures: pictures.length,
    broken: pictures.filter(each => !each.complete || each.naturalWidth === 0).map(each => each.alt),
    wide: wide.map(each => each.tagName + "." + each.className), title: document.title,
  }, "*");
});
</script>"""
_FRAMES = """<!DOCTYPE html><meta charset="utf-8"><pre id="found"></pre><script>
const found = [];
addEventListener("message", event => {
  found.push(event.data);
  if (found.length === %d) document.getElementById("found").textContent = JSON.stringify(found);
});
</script>%s"""


@dataclass(frozen=True)
class View:
    """The page at one width; `wide` names what sticks out to the right, `broken` the pictures that do not show."""

    width: int
    scroll_width: int
    pictures: int
    broken: list[str]
    wide: list[str]
    title: str


@dataclass(frozen=True)
class Sight:
    views: list[View]
    requests: list[str]


def chromium() -> str:
    """The browser; without one a test is skipped here, and fails where CI runs."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        why = "there is no Chromium here (apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


def look_at(page: Path, folder: Path, widths: tuple[int, ...] = (360, 1200)) -> Sight:
    """Open a page once for each width, and write down what a script finds in it."""
    browser = chromium()
    folder.mkdir(parents=True, exist_ok=True)
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    (folder / "copy.html").write_text(html.replace("</head>", f"{_PROBE}</head>"), encoding="utf-8")
    # A window is never narrower than 500 pixels; a frame in it may be.
    frames = "".join(
        f'<iframe src="copy.html" width="{width}" height="800" frameborder="0"></iframe>' for width in widths
    )
    (folder / "frames.html").write_text(_FRAMES % (len(widths), frames), encoding="utf-8")
    log = folder / "net.json"
    for budget in (
        20_000,
        60_000,
        180_000,
    ):  # its clock runs ahead of a busy machine, and ends before pictures are there
        dom = run(
            browser,
            folder,
            f"--virtual-time-budget={budget}",
            f"--window-size={max(widths) + 100},900",
            f"--log-net-log={log}",
            "--dump-dom",
            f"file://{folder / 'frames.html'}",
        )
        if found := re.search(r'<pre id="found">(.+?)</pre>', dom, re.DOTALL):
            break
    assert found, f"Chromium showed nothing: {dom[:500]}"
    views = [View(**each) for each in json.loads(unescape(found[1]))]
    return Sight(sorted(views, key=lambda view: view.width), _requests(log))


def print_page(page: Path, folder: Path) -> bytes:
    """The page on paper: a PDF."""
    browser, paper = chromium(), folder / "paper.pdf"
    folder.mkdir(parents=True, exist_ok=True)
    run(browser, folder, f"--print-to-pdf={paper}", "--no-pdf-header-footer", f"file://{page}")
    return paper.read_bytes()


def run(browser: str, folder: Path, *arguments: str) -> str:
    profile = folder / "profile"
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *arguments]
    environment = {**os.environ, "HOME": str(folder)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    finally:
        shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _requests(log: Path) -> list[str]:
    """Addresses beyond this machine's files that pages asked for; the browser's own calls have no initiator."""
    content: dict[str, Any] = json.loads(log.read_text(encoding="utf-8"))
    start = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [
        event["params"] for event in content["events"] if event["type"] == start and "url" in event.get("params", {})
    ]
    asked = {job["url"] for job in jobs if job.get("initiator", "not an origin") != "not an origin"}
    return sorted(url for url in asked if not url.startswith(("file:", "data:")))
