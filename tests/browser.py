"""Pictures of web pages, taken by Debian's Chromium without a window.

The page's clock runs ahead of ours: `wait_s` costs less than it says, and a page that keeps
fetching (TensorBoard) needs a long one. Mark the tests `browser`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def screenshot(
    url: str,
    png: Path,
    width: int = 1280,
    height: int = 800,
    dark: bool = False,
    wait_s: float = 2.0,
) -> None:
    """Save what the page shows after `wait_s` of its own time; skip the test without Chromium."""
    if CHROMIUM is None:
        pytest.skip("no `chromium` on the PATH to take a picture with")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                CHROMIUM,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                f"--virtual-time-budget={1000 * wait_s:.0f}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                f"--screenshot={png}",
                url,
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    assert png.is_file(), f"Chromium took no picture of {url}"
