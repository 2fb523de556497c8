"""Draw the README's picture: `make picture`.

    python docs/score_picture.py SERIES BUNDLE docs/images/score.png

Runs ``clinreadnet score SERIES --bundle BUNDLE --plot`` and reduces the plot to a small PNG.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, COLOURS = 1000, 256


def draw(series: str, bundle: str, target: str) -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        plot = Path(folder) / "score.png"
        command = [sys.executable, "-m", "clinreadnet.cli", "score", series, "--bundle", bundle]
        subprocess.run([*command, "--plot", str(plot)], check=True, stdout=subprocess.DEVNULL)
        with Image.open(plot) as image:
            size = WIDTH, round(image.height * WIDTH / image.width)
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    reduced = small.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    reduced.save(target, optimize=True)


if __name__ == "__main__":
    draw(*sys.argv[1:])
