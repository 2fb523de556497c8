"""Prepare what a GPU machine without a package index needs: `python -m bench.gpu_check.pack`.

Downloads wheels for its Python and compiles the kernels for its GPU. Golden slices and weights are
in the checkout. Everything together fits into what such a machine can be sent.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from bench.gpu_check.plan import CALL_MINUTES, PACK, ROOT, WHEELS

TRAVELS = 64 * 2**20
"""Bytes of checkout and pack that a machine without a network can be sent."""
PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 31, 34, 35, 39))
PRECISIONS = ("fp32", "fp16", "bf16")


def tracked() -> list[Path]:
    """Return the files of the checkout that travel: tracked ones, and new ones that git sees.

    Raises:
        ValueError: not a git checkout.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True)
    if listed.returncode:
        raise ValueError(f"{ROOT}: not a git checkout")
    files = {ROOT / name.decode() for name in listed.stdout.split(b"\0") if name}
    return sorted(path for path in files if path.is_file())


def size_of(files: Sequence[Path]) -> int:
    """Return the size of files in bytes."""
    return sum(path.stat().st_size for path in files)


def download(folder: Path, python: str) -> None:
    """Download the wheels of ``WHEELS`` for a version of Python on Linux, such as "3.12".

    Raises:
        CalledProcessError: pip fails.
    """
    tag = f"cp{python.replace('.', '')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command += [part for abi in (tag, "abi3", "none") for part in ("--abi", abi)]
    command += [part for name in (*PLATFORMS, "any") for part in ("--platform", name)]
    wheels = [f"{name}=={version(name)}" for name in WHEELS]
    subprocess.run([*command, "--dest", str(folder), *wheels], check=True)


def write_plugins(folder: Path, target: str, preset: str = "small") -> int:
    """Write the PTX of the plugins with a ``kernels.json``, as `clinreadnet export-kernels` does.

    Returns:
        Number of files.
    """
    import triton

    from clinreadnet._version import __version__
    from clinreadnet.export.kernels import INDEX_NAME, SCHEMA_VERSION, KernelSet, sources
    from clinreadnet.export.plugins.kernel import Native, plugin_kernel

    folder.mkdir(parents=True)
    kernels = []
    for spec, source in sources(preset):
        for precision in PRECISIONS if spec.plugin and source.plugin else ():
            try:
                made = plugin_kernel(spec, source, precision, target)
            except Native:  # TensorRT's own layers run
                continue
            (folder / made.launch.file).write_text(made.ptx, encoding="utf-8")
            kernels.append(made.launch)
    index = KernelSet(SCHEMA_VERSION, __version__, triton.__version__, preset, tuple(kernels))
    content = json.dumps(asdict(index), indent=2) + "\n"
    (folder / INDEX_NAME).write_text(content, encoding="utf-8")
    return len(kernels)


def pack(folder: Path, target: str, python: str | None, wheels: Sequence[Path] = ()) -> int:
    """Fill a folder; return its bytes.

    Args:
        folder: folder to replace.
        target: architecture of the GPU, such as "sm90".
        python: version of Python there, such as "3.12"; None to download no wheels.
        wheels: further wheels to carry.
    """
    from clinreadnet.export.kernels import FORMATS, export_kernels

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if python is not None:
        download(folder / "wheels", python)
    for wheel in wheels:
        shutil.copy(wheel, folder / "wheels")
    export_kernels(folder / "kernels", formats=FORMATS, targets=[target], precisions=PRECISIONS)
    write_plugins(folder / "plugins", target)
    return size_of([path for path in folder.rglob("*") if path.is_file()])


def pack_here() -> int:
    """Pack the kernels for this machine's GPU; exit status 2 if there are none for it."""
    from clinreadnet.errors import InputError
    from clinreadnet.runtime.gpu import find_gpus

    gpus = find_gpus()
    if not gpus:
        print("pack: --here needs an NVIDIA GPU", file=sys.stderr)
        return 2
    try:
        pack(PACK, gpus[0].target, None)
    except InputError as error:
        print(f"pack: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: Sequence[str]) -> int:
    """Pack and say how to run; exit status 1 if it is too large."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check.pack", description=__doc__)
    parser.add_argument("--target", default="sm90", help="architecture of the GPU (default: sm90)")
    parser.add_argument("--python", default="3.12", help="Python there (default: 3.12)")
    parser.add_argument(
        "--wheel",
        type=Path,
        action="append",
        default=[],
        help="carry this wheel too, like pycuda's",
    )
    parser.add_argument(
        "--here", action="store_true", help="only the kernels, for this machine's own GPU"
    )
    options = parser.parse_args(arguments)
    if options.here:
        return pack_here()
    size = pack(PACK, options.target, options.python, options.wheel) + size_of(tracked())
    print(f"pack: {PACK.relative_to(ROOT)} and the checkout: {size / 2**20:.1f} MiB")
    if size > TRAVELS:
        print(f"pack: more than {TRAVELS / 2**20:.0f} MiB do not travel", file=sys.stderr)
        return 1
    carried = PACK.relative_to(ROOT)
    print(
        f"There, with {carried}: "
        f"python3 -m bench.gpu_check --minutes {CALL_MINUTES} --out OUT --commit COMMIT"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
