"""Files of scores, as `score --csv`, `score --json` and `score-archive` write them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

# The columns of both, in the order of the CSV; tests/scoring/test_score_file.py compares them with
# those that are written.
COLUMNS = (
    *"path frame position score grade low high novelty in_domain series".split(),
    *"region region_reason header sop_instance_uid site_score site_map".split(),
    *"ctdi_vol_mgy exposure_mas kvp kernel thickness_mm".split(),
    *"scanner protocol acquired exposure_source device ctdi_phantom_cm tube_current_ma".split(),
)
FIGURES = tuple("noise_hu water_diameter_cm ssde_mgy".split())  # of `--figures`


def row(**values: Any) -> dict[str, Any]:
    """Return a slice of a routine scan; ``values`` replace some of its values."""
    return {
        **dict.fromkeys(COLUMNS),
        "path": "/archive/IM0001.dcm",
        "score": 2.5,
        "in_domain": True,
        "series": "1.2.3",
        "ctdi_vol_mgy": 8.0,
        "kernel": "Br40",
        "scanner": "Maker One",
        "protocol": "Abdomen",
        "acquired": "2026-01-31",
        **values,
    }


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        figures = [name for name in FIGURES if any(name in entry for entry in rows)]
        writer = csv.DictWriter(file, [*COLUMNS, *figures])
        writer.writeheader()
        for entry in rows:
            flag = entry["in_domain"]
            writer.writerow(entry | {"in_domain": None if flag is None else str(flag).lower()})
    return path


def write_json(path: Path, rows: list[dict[str, Any]], weights: str | None = None) -> Path:
    dose = COLUMNS[COLUMNS.index("ctdi_vol_mgy") :]
    slices = [
        {name: entry[name] for name in COLUMNS if name not in dose}
        | {"acquisition": {name: entry[name] for name in dose}}
        | {"figures": {name: entry[name] for name in FIGURES if name in entry} or None}
        for entry in rows
    ]
    session = {} if weights is None else {"weights_sha256": weights}
    path.write_text(json.dumps({"slices": slices, "session": session}))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], weights: str | None = None) -> Path:
    import pyarrow
    from pyarrow import parquet

    texts = (
        *("path", "grade", "series", "region", "region_reason", "header", "sop_instance_uid"),
        "site_map",
        *("kernel", "scanner", "protocol", "acquired", "exposure_source", "device", "error"),
    )
    kinds = {"frame": pyarrow.int32(), "score": pyarrow.float32(), "in_domain": pyarrow.bool_()}
    kinds |= dict.fromkeys(texts, pyarrow.string())
    figures = [name for name in FIGURES if any(name in entry for entry in rows)]
    schema = pyarrow.schema(
        [(name, kinds.get(name, pyarrow.float64())) for name in (*COLUMNS, "error", *figures)]
    )
    if weights is not None:
        schema = schema.with_metadata({"session": json.dumps({"weights_sha256": weights})})
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
    return path
