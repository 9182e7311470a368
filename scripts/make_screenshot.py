"""Take a screenshot of a sweep's report for the README.

`python scripts/make_screenshot.py exp/demo` writes media/report.png.
"""

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Open report.html in Debian's chromium and save the top of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep_dir", type=Path)
    parser.add_argument("--output", type=Path, default=Path("media/report.png"))
    parser.add_argument("--height", type=int, default=1500, help="pixels of the page to show")
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(
            viewport={"width": 1280, "height": arguments.height}, color_scheme="light"
        )
        page.goto((arguments.sweep_dir / "report.html").resolve().as_uri())
        page.wait_for_timeout(1500)
        page.screenshot(path=arguments.output)
        browser.close()


if __name__ == "__main__":
    main()
