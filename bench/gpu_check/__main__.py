"""Command line of `gpu-check`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.gpu_check import install
from bench.gpu_check.plan import REHEARSAL, ROOT, STEPS
from bench.gpu_check.run import run_steps

_RESTARTED = "CLINREADNET_GPU_CHECK_RESTARTED"

HELP = """Exit status: 0, all that could run passed; 1, a unit failed; 2, bad arguments or no GPU;
3, some units did not fit into the time: run the same command again, which goes on from there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps and record them."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_check",
        description="Run all checks that need a GPU, and record them.",
        epilog=HELP,
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "bench" / "results",
        help="folder of results; gets <gpu>/<date>-<commit>.json (default: bench/results)",
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        metavar="DIR",
        help="wheels to install first (default: those of bench.gpu_check.pack, if one is missing)",
    )
    parser.add_argument(
        "--device", type=int, metavar="N", help="GPU to use, by its number among the visible ones"
    )
    parser.add_argument("--minutes", type=float, help="time for all (default: no limit)")
    parser.add_argument("--again", action="store_true", help="run units that have been run, too")
    parser.add_argument("--commit", help="measured commit, outside a git checkout")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="try the control flow without a GPU; every time is false",
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.steps if name not in STEPS]:
        parser.error(f"unknown step {unknown[0]!r}; known: {', '.join(STEPS)}")
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes {options.minutes:g}: must be above 0")
    if options.rehearse and options.out.resolve() == ROOT / "bench" / "results":
        parser.error("--rehearse: name another --out; false times do not belong in bench/results")
    try:
        if not os.environ.get(_RESTARTED):
            prepare(options.wheels or install.carried_wheels(), arguments)
    except install.CannotInstall as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    return check(options)


def prepare(wheels: Path | None, arguments: Sequence[str]) -> None:
    """Install missing packages; restart the process if anything was installed."""
    if wheels is not None:
        install.install_wheels(wheels)
    if install.install_checkout() or wheels is not None:
        path = os.pathsep.join(filter(None, [str(install.SITE), os.environ.get("PYTHONPATH")]))
        install.restart({**os.environ, _RESTARTED: "1", "PYTHONPATH": path}, arguments)


def check(options: argparse.Namespace) -> int:
    """Run the selected steps."""
    from bench.measure.machine import machine_name
    from bench.recording import COMMIT_VARIABLE, results_of

    if options.device is not None:
        from bench import devices
        from clinreadnet.errors import InputError

        try:
            devices.use(options.device)
        except InputError as error:
            print(f"gpu-check: {error}", file=sys.stderr)
            return 2
    gpu = "rehearsal" if options.rehearse else gpu_name()
    if gpu is None:
        print("gpu-check: needs an NVIDIA GPU that PyTorch can use", file=sys.stderr)
        return 2
    environment = dict(os.environ)
    if options.commit:
        os.environ[COMMIT_VARIABLE] = environment[COMMIT_VARIABLE] = options.commit
    if options.rehearse:
        environment[REHEARSAL] = "1"
    # A run continues in its own file, also after midnight.
    path = results_of(options.out / machine_name(gpu, "", 0))
    chosen = {name: STEPS[name] for name in options.steps or STEPS}
    status = run_steps(
        chosen,
        path,
        minutes=options.minutes,
        again=options.again,
        environment=environment,
        say=lambda line: print(line, flush=True),
    )
    print(f"gpu-check: results in {path}; `make tables` reads those in bench/results")
    return status


def gpu_name() -> str | None:
    """Return the name of the GPU in CUDA."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


if __name__ == "__main__":
    sys.exit(main())
