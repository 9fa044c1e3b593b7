"""Takes the README's picture from a report: python benchmarks/picture.py sweeps-out/demo/report.html docs/demo.png (needs Chromium)."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import chromium


def main(report: str, picture: str) -> None:
    with chromium.browser() as page:
        page.open(Path(report))
        page.resize(1000)
        page.settle()
        boxes = page.js(
            "Array.from(document.querySelectorAll('.js-plotly-plot')).slice(0, 2).map(e => {"
            " const r = (e.closest('figure') || e).getBoundingClientRect();"
            " return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height}; })"
        )
        first, second = boxes
        clip = {
            "x": first["x"],
            "y": first["y"],
            "width": first["width"],
            "height": second["y"] + second["height"] - first["y"],
            "scale": 1,
        }
        image = page.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        Path(picture).write_bytes(base64.b64decode(image))


if __name__ == "__main__":
    main(*sys.argv[1:])
