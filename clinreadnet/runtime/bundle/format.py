"""Write manifests as JSON, read them as untrusted input, and generate their JSON Schema.

`make schema` writes `manifest.schema.json`.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
from collections import Counter
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from clinreadnet import limits
from clinreadnet.errors import InputError, first_line
from clinreadnet.precision import CHECKPOINT_PRECISIONS, PRECISIONS
from clinreadnet.runtime.bundle.manifest import (
    NOT_RUN,
    OUTPUT_INFOS,
    SCHEMA_VERSION,
    Artifact,
    BatchRange,
    Listed,
    Manifest,
    listed_files,
)
from clinreadnet.runtime.bundle.trust import MANIFEST_NAME
from clinreadnet.runtime.bundle.types import PLAIN_NAME, SHA256


class _FormatError(Exception):
    pass


def manifest_json(manifest: Manifest) -> str:
    """Return a manifest as JSON text. Numbers that are not finite become null."""
    content = msgspec.json.encode(manifest, enc_hook=_plain)
    return msgspec.json.format(content, indent=2).decode() + "\n"


def _plain(value: Any) -> str | int | float:
    """Convert a NumPy number or a torch version to the plain type that it derives from."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a manifest cannot hold {type(value).__name__}")


def parse_manifest(text: str, path: str | os.PathLike[str] = MANIFEST_NAME) -> Manifest:
    """Parse a manifest. ``path`` is used only in error messages.

    Raises:
        InputError: the text is not JSON, has a newer schema or an invalid field.
    """
    try:
        raw = _parsed(text)
        version = raw.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InputError(
                f"{path}: schema version {version} is newer than this clinreadnet reads "
                f"({SCHEMA_VERSION}); install a newer clinreadnet"
            )
        manifest = msgspec.convert(raw, Manifest)
        _check_fields(raw, manifest)
        _check(manifest)
    except (_FormatError, msgspec.ValidationError) as error:
        what, _, where = str(error).partition(" - at `$.")
        reason = f"{where.rstrip('`')}: {what}" if where else what
        raise InputError(f"{path}: {reason}; export the bundle again") from None
    return manifest


def manifest_schema() -> dict[str, Any]:
    """Return the format as a JSON Schema (draft 2020-12).

    A manifest contains exactly the fields of its types.
    """
    schema = msgspec.json.schema(Manifest)
    for node in schema["$defs"].values():
        node |= {"required": list(node["properties"]), "additionalProperties": False}
        node["description"] = inspect.cleandoc(node["description"])  # older msgspec keeps indents
        for field in node["properties"].values():
            field.pop("default", None)
    outputs = {"const": msgspec.to_builtins(OUTPUT_INFOS)}
    schema["$defs"]["Manifest"]["properties"]["outputs"] = outputs
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _parsed(text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _FormatError(f"not JSON ({first_line(error)})") from None
    if not isinstance(raw, dict):
        raise _FormatError("is not a JSON object")
    if _is_deeper(raw, limits.NESTING):
        raise _FormatError(f"nested more than {limits.NESTING} deep")
    return raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. A repeated key is an error, because readers treat it differently."""
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key in members if counts[key] > 1)
        raise _FormatError(f"{twice!r} occurs twice in an object")
    return members


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether parsed JSON is nested more than ``levels`` deep, without recursion."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(layer)


def _check_fields(raw: Any, complete: Any, where: str = "") -> None:
    """Check that parsed JSON has exactly the fields of the decoded manifest."""
    if isinstance(raw, dict):
        prefix = f"{where}." if where else ""
        known = complete
        if is_dataclass(complete):
            known = {field.name: getattr(complete, field.name) for field in fields(complete)}
        for name in known:
            if name not in raw:
                raise _FormatError(f"{prefix}{name} is missing")
        for name, value in raw.items():
            if name not in known:
                raise _FormatError(f"{prefix}{name} is not a field of this schema version")
            _check_fields(value, known[name], prefix + name)
    elif isinstance(raw, list):
        for i, (value, decoded) in enumerate(zip(raw, complete, strict=True)):
            _check_fields(value, decoded, f"{where}[{i}]")


def _check(manifest: Manifest) -> None:
    """Check constraints that the types do not express."""
    if manifest.outputs != OUTPUT_INFOS:
        names = ", ".join(output.name for output in OUTPUT_INFOS)
        raise _FormatError(f"outputs differ from {names}")
    threshold = manifest.model.novelty_threshold
    if threshold is not None and not math.isfinite(threshold):
        raise _FormatError(f"model.novelty_threshold {threshold} is not a number")
    _check_batch(manifest.input.batch, "input.batch")
    _check_sha256(manifest.model.weights_sha256, "the model's weights")
    names_of: dict[str, Listed] = {}
    for listed in listed_files(manifest):
        if not re.fullmatch(PLAIN_NAME, listed.file):
            raise _FormatError(f"{listed.file!r} is not a plain file name inside the bundle")
        _check_sha256(listed.sha256, listed.file)
        if not _same_checkpoint(names_of.setdefault(listed.file, listed), listed):
            raise _FormatError(f"the file {listed.file!r} is listed twice")
    graphs = {a.file: a for a in manifest.artifacts if a.kind == "onnx"}
    for i, artifact in enumerate(manifest.artifacts):
        where = f"artifacts[{i}]"
        _check_batch(artifact.batch, f"{where}.batch")
        if artifact.precision not in PRECISIONS:
            known = ", ".join(map(repr, PRECISIONS))
            raise _FormatError(f"{where}.precision: {artifact.precision!r} is none of {known}")
        engine = artifact.kind == "tensorrt-engine"
        if engine != (artifact.flavour is not None) or engine != (artifact.target is not None):
            raise _FormatError(f"{where}: an engine names flavour and target, a graph does not")
        if not engine and (artifact.graph is not None or artifact.layers is not None):
            raise _FormatError(f"{where}: only an engine names a graph and a layers report")
        if artifact.kind == "checkpoint":
            if artifact.sha256 != manifest.model.weights_sha256:
                raise _FormatError(f"{where}.sha256 differs from model.weights_sha256")
            if artifact.precision not in CHECKPOINT_PRECISIONS:
                known = ", ".join(CHECKPOINT_PRECISIONS)
                raise _FormatError(f"{where}: a checkpoint runs in {known} alone")
        for j, record in enumerate(artifact.records):
            if record.ran_on is None or record.status == NOT_RUN:
                raise _FormatError(f"{where}.records[{j}]: must state where it ran")
        if artifact.graph is not None and artifact.graph not in graphs:
            raise _FormatError(f"{where}.graph {artifact.graph!r} is not a listed ONNX graph")
        if artifact.plugins is not None:
            source = artifact if artifact.graph is None else graphs[artifact.graph]
            ptx = () if source.plugins is None or source.kind != "onnx" else source.plugins.ptx
            if not set(artifact.plugins.ptx) <= set(ptx):
                raise _FormatError(f"{where}.plugins.ptx: not among those of its graph")
            if artifact.plugins.needed_at_run_time:
                raise _FormatError(f"{where}.plugins.needed_at_run_time: must be false")
    failed = [a.file for a in manifest.artifacts if a.parity and a.parity.status == "failed"]
    if manifest.verified and failed:
        raise _FormatError(f"verified is true, but the parity of {failed[0]} failed")


def _same_checkpoint(first: Listed, other: Listed) -> bool:
    """Return whether two entries are equal, or list one checkpoint in two precisions."""
    return first is other or (
        isinstance(first, Artifact)
        and isinstance(other, Artifact)
        and first.kind == other.kind == "checkpoint"
        and (first.sha256, first.size) == (other.sha256, other.size)
        and first.precision != other.precision
    )


def _check_sha256(value: str, where: str) -> None:
    if not re.fullmatch(SHA256, value):
        raise _FormatError(f"{where}: sha256 is not 64 lower-case hexadecimal digits")


def _check_batch(batch: BatchRange, where: str) -> None:
    if not batch.min <= batch.opt <= batch.max:
        raise _FormatError(f"{where}: needs 1 <= min <= opt <= max")
