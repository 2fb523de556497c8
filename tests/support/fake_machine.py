"""A machine with a fake GPU and a fake TensorRT, and the bundles it is given."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clinreadnet.runtime import Session, gpu, verdict
from clinreadnet.runtime.backends import cuda_graph
from clinreadnet.runtime.backends.kernel_cache import CACHE_VARIABLE
from clinreadnet.runtime.backends.loading import SessionOptions, open_backend
from clinreadnet.runtime.backends.tensorrt import TensorRTBackend
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Artifact, BatchRange, BuiltOn, Parity
from clinreadnet.runtime.verdict import current_platform
from support.fake_pycuda import DriverLibrary, FakeGpu
from support.fake_tensorrt import Engine, Fake
from support.tiny_bundle import write_bundle

VERSIONS = {
    "tensorrt-10": ("tensorrt", "10.16.1.11"),
    "tensorrt-11": ("tensorrt", "11.4.0.9"),
    "tensorrt-rtx": ("tensorrt-rtx", "1.7.1.116"),
}


@dataclasses.dataclass
class Machine:
    """A machine with a fake GPU, and the bundles it is given."""

    gpu: FakeGpu
    fake: Fake
    flavour: str
    folder: Path

    def bundle(
        self,
        engine: Engine | None = None,
        *,
        verifiable: bool = False,
        **changes: Any,
    ) -> Path:
        """Write a bundle of a float32 graph and one engine."""
        engine = engine or Engine()
        folder = self.folder / f"bundle{len(list(self.folder.iterdir()))}"
        path = write_bundle(folder, verifiable=verifiable)
        content = engine.file()
        file = "clinreadnet.fp16.engine"
        (path / file).write_bytes(content)
        entry = Artifact(
            file=file,
            kind="tensorrt-engine",
            precision="fp16" if engine.half else "fp32",
            sha256=digest(content),
            size=len(content),
            batch=BatchRange(*engine.batch),
            toolchain={self.flavour: self.fake.version},
            built_on=BuiltOn(current_platform(), driver="580.65.06"),
            flavour=self.flavour,
            target=engine.target,
            parity=Parity(NOT_RUN),
        )
        manifest = load_manifest(path)
        entry = dataclasses.replace(entry, **changes)
        write_manifest(dataclasses.replace(manifest, artifacts=(*manifest.artifacts, entry)), path)
        return path

    @contextmanager
    def backend(self, engine: Engine | None = None, **options: Any) -> Iterator[TensorRTBackend]:
        """Load a backend as a session does, without its self-test."""
        bundle = self.bundle(engine)
        manifest = load_manifest(bundle)
        loaded = open_backend(self.flavour, bundle, manifest, SessionOptions(**options))
        assert isinstance(loaded.backend, TensorRTBackend)
        with closing(loaded.backend) as backend:
            yield backend

    def session(self, engine: Engine | None = None, **arguments: Any) -> Session:
        return Session(self.bundle(engine), self.flavour, **arguments)


def start(monkeypatch: pytest.MonkeyPatch, kind: str, folder: Path) -> Machine:
    flavour, version = VERSIONS[kind]
    device = FakeGpu()
    fake = Fake(device, version, rtx=flavour == "tensorrt-rtx")
    package = types.ModuleType("pycuda")
    package.driver = device.module()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", package.driver)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}_bindings", None)
    module = flavour.replace("-", "_")
    monkeypatch.setitem(sys.modules, module, fake.module(module))
    for place in (gpu, cuda_graph):
        monkeypatch.setattr(place, "load_driver", lambda: DriverLibrary(device))
    monkeypatch.setattr(verdict, "driver_version", lambda: "580.65.06")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder.with_name(f"{folder.name}-cache")))
    return Machine(device, fake, flavour, folder)
