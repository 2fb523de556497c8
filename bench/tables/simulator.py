"""Tables of docs/simulator.md."""

from __future__ import annotations

from bench.recording import RESULTS
from bench.tables.recorded import markdown, read_json

SIMULATED = RESULTS / "simulator" / "seed-1.json"


def simulator_noise_table() -> str:
    """Return median noise by noise level and view count."""
    table = read_json(SIMULATED)["median_noise_hu"]
    views = list(table["0"])
    rows = [[level, *(f"{table[level][v]:.0f}" for v in views)] for level in table]
    return markdown(["level", *(f"{v} views" for v in views)], rows)


def simulator_labels_table() -> str:
    """Return further measurements of the simulated training set."""
    s = read_json(SIMULATED)
    low, _, high = s["noise_hu_percentiles"].values()
    streak, agreement = s["streak_hu_fewest_views"], s["reader_srocc_with_the_others"]
    grades = sum(count > 0 for count in s["images_of_each_grade"])
    quality, sources = s["mean_quality_denoised"], s["mean_quality_of_their_sources"]
    alone, undenoised = s["noise_alone_srocc"], s["noise_alone_srocc_undenoised"]
    ceiling = ", ".join(f"{name.upper()} {value:.3f}" for name, value in s["ceiling"].items())
    measured = {
        "noise without the denoised copies, 2nd to 98th percentile": f"{low:.0f} to {high:.0f} HU",
        "error of missing views alone, fewest views": (
            f"{streak['min']:.0f} to {streak['max']:.0f} HU, median {streak['median']:.0f}"
        ),
        "Kolmogorov–Smirnov distance of the labels to the challenge's 1000": (
            f"{s['ks_distance_to_challenge_labels']:.3f}"
        ),
        "SROCC of one radiologist with the mean of the other four": (
            f"{min(agreement):.3f} to {max(agreement):.3f}"
        ),
        "grades 0, 0.2 … 4 that occur": f"{grades} of 21",
        "SROCC of measured noise alone with the label; without the denoised copies": (
            f"{alone:.3f}; {undenoised:.3f}"
        ),
        "mean quality of the denoised copies; of their sources": f"{quality:.2f}; {sources:.2f}",
        "ceiling: the noiseless quality with the label": ceiling,
    }
    head = f"{s['images']} images of {s['anatomies']} anatomies, `{s['command']}`"
    return markdown([head, "measured"], list(measured.items()))


TABLES = {
    "simulator-labels": simulator_labels_table,
    "simulator-noise": simulator_noise_table,
}
