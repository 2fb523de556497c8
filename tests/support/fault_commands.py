"""Every command that writes, with inputs and outputs for the tests of faults.

Work that takes long is replaced by something short; what writes is not. Imports are at the top: the
server of `support.faults` makes them once for all children.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.figure
import numpy as np
import torch
from PIL import Image
from pyarrow import parquet
from safetensors import safe_open

from clinreadnet.cli import app
from clinreadnet.data.ldctiqa import read_ldctiqa
from clinreadnet.data.tif import write_tif
from clinreadnet.export import bundle as bundles
from clinreadnet.export import kernels
from clinreadnet.export.onnx import graphs
from clinreadnet.export.triton_server import write_repository
from clinreadnet.files import whole_file
from clinreadnet.kernels.compile import Resources
from clinreadnet.model.checkpoint import save_checkpoint
from clinreadnet.model.network import PRESETS, ClinReadNet
from clinreadnet.node.spool import Spool
from clinreadnet.runtime.bundle.files import load_manifest, read_listed
from clinreadnet.runtime.bundle.manifest import listed_files
from clinreadnet.runtime.bundle.sign import sign_bundle
from clinreadnet.runtime.bundle.trust import read_manifest
from clinreadnet.scoring.site_map import read_site_map
from clinreadnet.simulator import simulate
from clinreadnet.training import ablate
from clinreadnet.training.ablation_table import METRICS
from clinreadnet.tuning import tune
from support.dicom_files import noise, write_ct
from support.kernel_folder import write_kernels
from support.labelled_folder import make_labelled_folder
from support.ray_here import use_ray_here
from support.score_files import row, write_csv, write_json
from support.site_readers import WEIGHTS, site, write_grades
from support.tiny_bundle import write_bundle

__all__ = ["COMMANDS", "Command", "app", "matplotlib"]

SMALL = replace(PRESETS["tiny"], embed_dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8))
"""A network of one narrow block a stage."""


def _nothing(*arguments: Any) -> None:
    pass


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        arguments: arguments of ``clinreadnet``.
        outputs: files and folders in the folder ``out``, with functions that check them.
        prepare: function that writes inputs to the folder ``in`` and old outputs to ``out``.
        stub: function that replaces slow calls.
        resumes: whether the command can be resumed, with ``--resume`` if there is a ``last.pt``.
        status: exit status without a fault. 1: three slices without labels fail the check of ranks.
    """

    arguments: str
    outputs: dict[str, Callable[[Path], bool]]
    prepare: Callable[[Path, Path], None] = _nothing
    stub: Callable[[], None] = _nothing
    resumes: bool = False
    status: int = 0

    def make(self, folder: Path) -> None:
        """Make inputs and old outputs in a folder."""
        for name in ("in", "out"):
            (folder / name).mkdir(parents=True)
        self.prepare(folder / "in", folder / "out")
        for name in self.outputs:
            path = folder / "out" / name
            if not path.exists() and not self.resumes:
                path.write_text("old")


# Whether an output is whole


def _is_pdf(path: Path) -> bool:
    content = path.read_bytes()
    return content.startswith(b"%PDF") and content.endswith(b"%%EOF\n")


def _is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
    return True


def _is_json(path: Path) -> bool:
    return bool(json.loads(path.read_text()))


def _is_table(path: Path) -> bool:
    with path.open(newline="") as file:
        return [row["frame"] for row in csv.DictReader(file)] == ["0", "1", "2"]


def _is_page(path: Path) -> bool:
    return path.read_text().rstrip().endswith("</html>")


def _is_site_map(path: Path) -> bool:
    return len(read_site_map(path).scores) > 1


def _is_archive(path: Path) -> bool:
    return len(parquet.read_table(path)) == 3


def _is_bundle(path: Path) -> bool:
    manifest = load_manifest(path)
    for listed in listed_files(manifest):
        read_listed(path, listed)
    graphs = [artifact for artifact in manifest.artifacts if artifact.kind == "onnx"]
    return len(graphs) == 2 and (path / "golden.npz").exists()


def _is_signed(path: Path) -> bool:
    if (path / "manifest.sig").read_text(errors="replace") == "old":
        return True
    read_manifest(path, [path.parents[1] / "in" / "key.pub.pem"])
    return True


def _is_recorded(path: Path) -> bool:
    """Return whether a bundle is signed as it is, or not at all."""
    if (path / "manifest.sig").exists():
        read_manifest(path, [path.parents[1] / "in" / "key.pub.pem"])
    return bool(load_manifest(path).artifacts)


def _is_kernels(path: Path) -> bool:
    listed = json.loads((path / "kernels.json").read_text())["kernels"]
    return {path / kernel["file"] for kernel in listed} == set(path.glob("*.ptx"))


def _is_repository(path: Path) -> bool:
    models = [model for model in path.iterdir() if model.is_dir()]
    return len(models) == 2 and all(
        (model / "config.pbtxt").exists() and list(model.glob("1/*.onnx")) for model in models
    )


def _is_labelled(path: Path) -> bool:
    return len(read_ldctiqa(path)) == len(list((path / "image").iterdir())) == 2


def _is_series(path: Path) -> bool:
    return sorted(file.name for file in path.iterdir()) == ["IM0000.dcm", "IM0001.dcm"]


def _is_run(path: Path) -> bool:
    """Return whether each file of a run folder is whole, if it is there."""
    if (state := path / "last.pt").exists():
        torch.load(state, weights_only=True)
    if (log := path / "log.csv").exists():
        rows = list(csv.DictReader(log.open(newline="")))
        assert all(None not in row.values() for row in rows)
    if (weights := path / "model.safetensors").exists():
        with safe_open(weights, framework="pt") as file:
            assert file.keys()
    if (summary := path / "summary.json").exists():
        assert _is_json(summary)
    if (curves := path / "curves.png").exists():
        assert _is_picture(curves)
    return True


def _is_ablation(path: Path) -> bool:
    for file in path.glob("**/*.json"):
        assert _is_json(file)
    return True


# Inputs, and stubs


def _slices(source: Path, out: Path) -> None:
    write_bundle(source / "bundle")
    np.save(source / "a.npy", np.stack([noise(k) for k in range(3)]))


def _bundle(source: Path, out: Path) -> None:
    write_bundle(source / "bundle")


def _kernels(source: Path, out: Path) -> None:
    write_kernels(source / "kernels")


def _repository(source: Path, out: Path) -> None:
    # The old repository has one model, the new one two.
    write_repository(write_bundle(source / "old", precisions=("fp32",)), out / "models")
    write_bundle(source / "bundle")


def _site(source: Path, out: Path) -> None:
    grades, scores = site()
    write_grades(source / "site.csv", grades)
    write_json(source / "scores.json", scores, weights=WEIGHTS)


def _keys(source: Path, out: Path) -> None:
    _make_keys(source)
    write_bundle(out / "bundle")
    (out / "bundle" / "manifest.sig").write_text("old")


def _signed(source: Path, out: Path) -> None:
    _make_keys(source)
    sign_bundle(write_bundle(out / "bundle", verifiable=True), source / "key.pem")


def _make_keys(source: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    secret = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    (source / "key.pem").write_bytes(secret)
    (source / "key.pub.pem").write_bytes(public)


def _checkpoint(source: Path, out: Path) -> None:
    write_bundle(source / "bundle")
    torch.manual_seed(0)
    save_checkpoint(ClinReadNet(SMALL), source / "a.safetensors")
    _old_folder(out / "bundle")


def _old_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "old.txt").write_text("old")


def _export() -> None:
    PRESETS["tiny"] = SMALL
    source = Path("in/bundle").absolute()

    def graph(model: object, path: Path, **form: object) -> None:
        with whole_file(path) as temporary:
            shutil.copy(source / path.name, temporary)

    def golden(path: Path, *rest: object) -> object:
        with whole_file(path) as temporary:
            shutil.copy(source / path.name, temporary)
        return load_manifest(source).golden

    graphs.export_onnx = graph  # type: ignore[assignment]
    bundles.write_golden = golden  # type: ignore[assignment]


def _compile() -> None:
    metadata = SimpleNamespace(name="entry", num_warps=4, shared=0)
    compiled = SimpleNamespace(asm={"ptx": ".version 8.0\n" * 100}, metadata=metadata)
    kernels.compiled = lambda case, ptx_version: compiled  # type: ignore[assignment]
    kernels.resources_of = lambda kernel: Resources(32, 0, 0)


def _labelled(source: Path, out: Path) -> None:
    make_labelled_folder(source / "slices", anatomies=2)


def _narrow() -> None:
    PRESETS["tiny"] = SMALL
    torch.set_num_threads(1)


_SUMMARY = {
    "steps": 1,
    "training_slices": 8,
    "validation_slices": 4,
    "training_anatomies": 2,
    "training_minutes": 2.5,
    "device": "abacus",
    "processes": 1,
    "threads": 2,
    "torch": "2",
    "clinreadnet": "0",
    "kept": dict.fromkeys(METRICS, 0.5),
}


def _without_training() -> None:
    def train(data: object, run: Path, config: object, *, resume: bool) -> Path:
        run.mkdir(exist_ok=True)
        with whole_file(run / "summary.json") as path:
            path.write_text(json.dumps(_SUMMARY))
        return run / "model.safetensors"

    ablate.train = train  # type: ignore[assignment]


def _simulated() -> None:
    tiles = np.ones((2, 16, 16), np.float32)
    record = {
        "anatomy": 0,
        "score": 2.0,
        "quality": 2.0,
        "noise_level": 0,
        "views": 720,
        "noise_hu": 9,
    }

    def anatomy(folder: Path, *rest: object) -> dict[str, Any]:
        names = [f"{number:04}.tif" for number in range(2)]
        for number, name in enumerate(names):
            write_tif(folder / "image" / name, noise(number))
        return {name: simulate._Made({**record, "denoiser": None}, tuple(tiles)) for name in names}

    def series_slice(folder: Path, seed: int, count: int, index: int) -> float:
        write_ct(folder / f"IM{index:04}.dcm", noise(index))
        return 2.0

    simulate._write_anatomy = anatomy  # type: ignore[assignment]
    simulate._write_series_slice = series_slice


def _tuned() -> None:
    document = {"gpu": "NVIDIA Pretend 9000", "compute_capability": 90}
    tune.tune = lambda **options: tune.Tuning(document, ())


COMMANDS: dict[str, Command] = {
    "score": Command(
        "score in/a.npy --bundle in/bundle --csv out/a.csv --plot out/a.png --pdf out/a.pdf "
        "--challenge-output out --json",
        {
            "a.csv": _is_table,
            "a.png": _is_picture,
            "a.pdf": _is_pdf,
            "image-quality-scores.json": _is_json,
        },
        _slices,
    ),
    "score-archive": Command(
        "score-archive in/a.npy --bundle in/bundle --out out/a.parquet --backend onnxruntime-cpu",
        {"a.parquet": _is_archive},
        _slices,
        use_ray_here,
    ),
    "sign": Command("sign out/bundle --key in/key.pem", {"bundle": _is_signed}, _keys),
    "verify": Command(
        "verify in/bundle --plot out/a.png", {"a.png": _is_picture}, _bundle, status=1
    ),
    "verify-record": Command(
        "verify out/bundle --record --key in/key.pem", {"bundle": _is_recorded}, _signed
    ),
    "export": Command(
        "export --out out/bundle --checkpoint in/a.safetensors --preset tiny --no-engines --force",
        {"bundle": _is_bundle},
        _checkpoint,
        _export,
        status=1,
    ),
    "export-kernels": Command(
        "export-kernels --out out/kernels --format ptx --target sm90 --precision fp16 --force",
        {"kernels": _is_kernels},
        lambda source, out: _old_folder(out / "kernels"),
        _compile,
    ),
    "export-triton-server": Command(
        "export-triton-server --bundle in/bundle --out out/models --force",
        {"models": _is_repository},
        _repository,
    ),
    "simulate": Command(
        "simulate --out out/slices --count 2 --seed 1 --jobs 1 --preview out/a.png --force",
        {"slices": _is_labelled, "a.png": _is_picture},
        lambda source, out: _old_folder(out / "slices"),
        _simulated,
    ),
    "simulate-dicom": Command(
        "simulate --out out/series --count 2 --seed 1 --jobs 1 --dicom --force",
        {"series": _is_series},
        lambda source, out: _old_folder(out / "series"),
        _simulated,
    ),
    "train": Command(
        "train --data in/slices --out out/run --preset tiny --epochs 1 --batch-size 4 --crop 256 "
        "--validation-share 0.34",
        {"run": _is_run},
        _labelled,
        _narrow,
        resumes=True,
    ),
    "ablate": Command(
        "ablate --data in/slices --out out/ablation --seeds 1 --preset tiny --epochs 1",
        {"ablation": _is_ablation},
        _labelled,
        _without_training,
        resumes=True,
    ),
    "tune": Command("tune --out out/gpu.json", {"gpu.json": _is_json}, _nothing, _tuned),
    "agree": Command(
        "agree --labels in/site.csv --scores in/scores.json --html out/readers.html",
        {"readers.html": _is_page},
        _site,
    ),
    "fit-site-map": Command(
        "fit-site-map --labels in/site.csv --scores in/scores.json --out out/map.json",
        {"map.json": _is_site_map},
        _site,
    ),
}


def _evaluated(source: Path, out: Path) -> None:
    _labelled(source, out)
    _order(source / "slices")
    torch.manual_seed(0)
    save_checkpoint(ClinReadNet(SMALL), source / "a.safetensors")


def _order(folder: Path) -> None:
    """Record degradations, as `simulate --anatomy` does."""
    simulation = json.loads((folder / "simulation.json").read_text())
    for number, record in enumerate(simulation["images"].values()):
        slice_ = f"IM{number % 2}.dcm"
        quality = max(4.0 - number, 0)
        record |= {"noise_level": number, "views": 720, "quality": quality, "slice": slice_}
    (folder / "simulation.json").write_text(json.dumps(simulation))


def _scores(source: Path, out: Path) -> None:
    write_csv(source / "scores.csv", [row()])


def _spool(source: Path, out: Path) -> None:
    Spool(source / "spool", most_bytes=2**30, most_objects=10).close()


_PRESET = "--checkpoint in/a.safetensors"

READERS: dict[str, Command] = {
    "doctor": Command("doctor", {}),
    "inspect": Command("inspect in/bundle", {}, _bundle),
    "check-graph": Command("check-graph in/bundle/clinreadnet.fp32.onnx", {}, _bundle),
    "check-kernels": Command("check-kernels in/kernels", {}, _kernels),
    "evaluate": Command(f"evaluate --data in/slices {_PRESET}", {}, _evaluated, _narrow),
    "evaluate-order": Command(
        f"evaluate-order --data in/slices {_PRESET}", {}, _evaluated, _narrow
    ),
    "calibrate": Command(
        f"calibrate --data in/slices {_PRESET} --out out/b.safetensors", {}, _evaluated, _narrow
    ),
    "summarize": Command("summarize in/scores.csv", {}, _scores),
    "plan-readers": Command("plan-readers", {}),
    "spool": Command("spool in/spool", {}, _spool),
    "listen": Command(
        "listen --bundle in/bundle --spool out/spool --send-to 127.0.0.1:9:PACS --port 11119",
        {},
        _bundle,
    ),
}
"""Commands that write nothing, or that have tests of their own for what they write."""
