"""The search for launch configurations with an injected clock. A GPU adds only the time."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

pytest.importorskip("triton", reason="triton is not installed")

from clinreadnet.cli import app
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.kernels import launch
from clinreadnet.kernels.launch import CONFIGS, config_file, launch_config, trial
from clinreadnet.tuning import tune

CPU = torch.device("cpu")
IN_USE = {"block": 1}


class Doubling:
    """An op that doubles. Its configuration determines its time and its error."""

    def __init__(self, milliseconds: dict[int, float], wrong: Sequence[int] = ()) -> None:
        self.milliseconds, self.wrong = milliseconds, wrong
        self.launched: list[int] = []

    def tunable(self, *keys: str) -> tune.Tunable:
        def op(tensors: Sequence[Tensor], impl: str) -> Tensor:
            if impl == "triton":
                block = launch_config("", 0, "doubling", *keys)["block"]
                self.launched.append(block)
                if block in self.wrong:
                    return torch.full_like(tensors[0], torch.nan)
            return tensors[0] * 2

        def examples(device: torch.device) -> list[tune.Example]:
            tensors = (torch.ones(3, 4, device=device),)
            return [tune.Example(name, tensors, op, 1e-6) for name in ("one", "two")]

        candidates = tuple({"block": block} for block in self.milliseconds)
        return tune.Tunable(candidates, lambda capability: [], examples)

    def clock(self, run: Callable[[], object]) -> float:
        run()
        return self.milliseconds[self.launched[-1]]


def search(op: Doubling, **options: Any) -> tune.EntryTrials:
    options = {"capability": 90, "device": CPU, "clock": op.clock} | options
    return tune.search(op.tunable("64"), ("doubling", "64"), IN_USE, **options)


def test_the_fastest_is_chosen_and_the_one_in_use_is_tried_first() -> None:
    op = Doubling({2: 0.5, 4: 0.25, 1: 1.0, 8: 0.75})
    result = search(op)
    assert [trial.config["block"] for trial in result.trials] == [1, 2, 4, 8]
    assert result.best.config == {"block": 4}
    assert result.best.milliseconds == (0.25, 0.25)
    assert result.examples == ("one", "two")


def test_a_tie_keeps_the_configuration_in_use() -> None:
    assert search(Doubling({2: 0.5, 1: 0.5})).best.config == IN_USE


def test_times_are_weighed_by_ratio() -> None:
    """Twice the speed on a short example outweighs a loss of a tenth on a long one."""
    times = iter([1.0, 100.0, 0.5, 110.0])

    def clock(run: Callable[[], object]) -> float:
        return next(times)

    assert search(Doubling({1: 0, 2: 0}), clock=clock).best.config == {"block": 2}


def test_a_wrong_candidate_is_dropped_before_it_is_timed() -> None:
    result = search(Doubling({1: 1.0, 2: 0.1}, wrong=[2]))
    assert result.best.config == IN_USE
    assert "wrong on one: relative error inf" in str(result.trials[1].dropped)
    assert result.trials[1].milliseconds == ()


def test_the_check_launches_the_whole_batch() -> None:
    """The number of tokens decides which configuration a launch uses."""
    sizes = []

    def op(tensors: Sequence[Tensor], impl: str) -> Tensor:
        sizes.append(len(tensors[0]))
        return tensors[0] * 2

    example = tune.Example("three", (torch.arange(12.0).reshape(3, 4),), op, 1e-6)
    assert tune.wrong(example, example.tensors[0][:1].double() * 2) is None
    assert "wrong on three" in str(tune.wrong(example, example.tensors[0][1:2].double() * 2))
    assert sizes == [3, 3]


def test_a_spilling_candidate_is_dropped_before_it_is_launched() -> None:
    op = Doubling({1: 1.0, 2: 0.1})

    def obstacle(cases: Sequence[Any]) -> str | None:
        return "spills 8 bytes" if launch_config("", 0, "doubling", "64")["block"] == 2 else None

    result = search(op, obstacle=obstacle)
    assert result.best.config == IN_USE
    assert result.trials[1].dropped == "spills 8 bytes"
    assert 2 not in op.launched


@pytest.mark.parametrize(
    ("of_library", "layers"),
    [
        pytest.param((0.9, 0.9, 0.9, 9.0), {"2x4": 8}, id="from-a-number-of-tokens-on"),
        pytest.param((0.9, 1.1, 0.9, 9.0), {"2x4": 64}, id="not-below-a-loss"),
        pytest.param((0.9, 0.9, 1.0, 0.9), {"3x4": 8}, id="not-in-a-tie"),
        pytest.param((1.1, 1.1, 1.1, 1.1), {}, id="never"),
    ],
)
def test_layers_go_to_the_library_where_it_is_faster(
    of_library: tuple[float, ...], layers: dict[str, int]
) -> None:
    """Against the best candidate, whatever the entry in use says."""
    sides = [("2x4", 8), ("2x4", 16), ("2x4", 64), ("3x4", 8)]
    made = Doubling({1: 2.0, 2: 1.0}).tunable("64")
    op = made.examples(CPU)[0].op
    examples = [tune.Example(str(n), (torch.ones(3, 4),), op, 1e-6) for n in range(4)]
    tunable = replace(made, examples=lambda device: examples, library=tuple(sides))
    times = iter([*[2.0] * 4, *[1.0] * 4, *of_library])
    tried: list[tune.Trial] = []
    result = tune.search(
        tunable,
        ("doubling", "64"),
        IN_USE | {"library": {"5x5": 1}},
        capability=90,
        device=CPU,
        clock=lambda run: next(times),
        tried=tried.append,
    )
    assert tried[-1] == result.library == tune.Trial({"library": layers}, of_library)
    assert [t.config for t in tried[:-1]] == [IN_USE, {"block": 2}]
    assert result.chosen == {"block": 2} | ({"library": layers} if layers else {})


def test_no_candidate_left_is_an_error() -> None:
    with pytest.raises(CheckFailed, match="doubling 64: no candidate can be used; wrong on one"):
        search(Doubling({1: 1.0, 2: 0.1}, wrong=[1, 2]))


def test_trials_end_with_the_block() -> None:
    keys = ("sobel_stem", "float16", "32")
    shipped = launch_config("", 0, *keys)
    with trial({"block_h": 1}, *keys):
        assert launch_config("", 0, *keys) == {"block_h": 1}
        assert launch_config("", 0, "sobel_stem", "float16", "16") != {"block_h": 1}
    assert launch_config("", 0, *keys) == shipped


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_entry_can_be_tuned(path: Path) -> None:
    configs = {op: tree for op, tree in json.loads(path.read_text()).items() if type(tree) is dict}
    entries = dict(tune.entries(configs))
    assert len(entries) >= 12
    for keys, config in entries.items():
        tunable = tune.TUNABLE[keys[0]](*keys[1:])
        assert len(tunable.candidates) >= 4
        for candidate in tunable.candidates:
            assert set(candidate) == set(config) - {"library"}, keys


@pytest.mark.compile
def test_the_compiler_says_what_spills() -> None:
    keys = ("window_attention", "float32", "128")
    tunable = tune.TUNABLE[keys[0]](*keys[1:])
    reasons = {}
    for rows in (16, 32):
        with trial({"block_m": rows, "num_warps": 4, "precision": "tf32x3"}, *keys):
            reasons[rows] = tune.compile_obstacle(tunable.cases(80))
    assert reasons[16] is None
    assert str(reasons[32]).startswith("spills ")


@pytest.mark.compile
def test_what_does_not_compile_is_dropped() -> None:
    keys = ("window_attention", "float16", "64")
    tunable = tune.TUNABLE[keys[0]](*keys[1:])
    with trial({"block_m": 48, "num_warps": 4}, *keys):
        reason = tune.compile_obstacle(tunable.cases(80))
    assert str(reason).startswith("does not compile: ")


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Pretend a GPU without a file of its own, and a clock that favours block 4."""
    folder = tmp_path / "configs"
    folder.mkdir()
    default = {"gpu": None, "compute_capability": None, "other": {"8": {"block": 7}}}
    default |= {"doubling": {"float16": {"64": IN_USE, "128": IN_USE}}}
    (folder / "default.json").write_text(json.dumps(default))
    op = Doubling({1: 1.0, 2: 0.5, 4: 0.25})
    monkeypatch.setattr(tune, "gpu_of", lambda device: ("NVIDIA Pretend 9000", 90))
    monkeypatch.setattr(tune, "TUNABLE", {"doubling": op.tunable})
    monkeypatch.setattr(tune, "CONFIGS", folder)
    in_folder = lambda gpu, capability: config_file(gpu, capability, folder)  # noqa: E731
    monkeypatch.setattr(tune, "config_file", in_folder)
    monkeypatch.setattr(launch, "config_file", in_folder)
    run = tune.tune

    def on_cpu(**options: Any) -> tune.Tuning:
        return run(device=CPU, clock=op.clock, **options)

    monkeypatch.setattr(tune, "tune", on_cpu)
    launch.read_configs.cache_clear()
    yield folder
    launch.read_configs.cache_clear()


def invoke(*options: str) -> Result:
    return CliRunner().invoke(app, ["tune", *options])


def test_the_file_is_whole_and_launches_read_it(pretend_gpu: Path) -> None:
    result = invoke("--json")
    assert result.exit_code == 0, result.exception
    path = pretend_gpu / "nvidia-pretend-9000.json"
    written = json.loads(path.read_text())
    assert json.loads(result.stdout)["configuration"] == written
    assert (written["gpu"], written["compute_capability"]) == ("NVIDIA Pretend 9000", 90)
    assert written["triton"] and written["date"][:2] == "20"
    best = {"block": 4}
    assert written["doubling"] == {"float16": {"64": best, "128": best}}
    assert written["other"] == {"8": {"block": 7}}  # nothing here knows how to tune it

    keys = ("doubling", "float16", "64")
    for gpu, capability in (("NVIDIA Pretend 9000", 90), ("NVIDIA Never Seen", 90)):
        assert launch_config(gpu, capability, *keys) == best
    assert launch_config("NVIDIA Other Generation", 80, *keys) == IN_USE


def test_a_part_can_be_tuned_alone(pretend_gpu: Path) -> None:
    assert invoke("--entry", "doubling/float16/64").exit_code == 0
    (path,) = set(pretend_gpu.iterdir()) - {pretend_gpu / "default.json"}
    written = json.loads(path.read_text())
    assert written["doubling"]["float16"] == {"64": {"block": 4}, "128": IN_USE}


def test_what_triton_compiles_wrongly_is_not_tried(
    pretend_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipelines of Triton 3.6 on compute capability 9.0: twice the same code would be timed."""
    monkeypatch.setattr(tune.triton, "__version__", "3.6.0")
    made = tune.TUNABLE["doubling"]("float16", "64")
    piped = tuple({**c, "stages": stages} for c in made.candidates for stages in (1, 3))
    tunable = replace(made, candidates=piped)
    monkeypatch.setattr(tune, "TUNABLE", {"doubling": lambda *keys: tunable})
    (result,) = tune.tune(only=["doubling/float16/64"]).tuned
    assert [t.config for t in result.trials] == [IN_USE, *piped[::2]]


def test_dry_run_writes_nothing(pretend_gpu: Path) -> None:
    result = invoke("--dry-run")
    assert result.exit_code == 0
    assert "block 4" in result.stdout
    assert [path.name for path in pretend_gpu.iterdir()] == ["default.json"]


def test_out_names_the_file(pretend_gpu: Path, tmp_path: Path) -> None:
    assert invoke("--out", str(tmp_path / "own.json")).exit_code == 0
    assert json.loads((tmp_path / "own.json").read_text())["gpu"] == "NVIDIA Pretend 9000"
    assert [path.name for path in pretend_gpu.iterdir()] == ["default.json"]


def test_an_existing_file_keeps_its_other_entries(pretend_gpu: Path, tmp_path: Path) -> None:
    out = tmp_path / "own"
    for entry in ("64", "128"):
        assert invoke("--entry", f"doubling/float16/{entry}", "--out", str(out)).exit_code == 0
    best = {"block": 4}
    assert json.loads(out.read_text())["doubling"]["float16"] == {"64": best, "128": best}
    out.write_text(out.read_text().replace("Pretend", "Other"))
    result = invoke("--out", str(out))
    assert "is of NVIDIA Other 9000, not of NVIDIA Pretend 9000" in str(result.exception)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "not JSON"), ("[]", "is of no GPU"), ("{}", "is of no GPU"), (None, "is a folder")],
)
def test_another_file_is_refused_before_anything_is_timed(
    pretend_gpu: Path, tmp_path: Path, content: str | None, reason: str
) -> None:
    out = tmp_path / "own"
    if content is None:
        out.mkdir()
    else:
        out.write_text(content)
    result = invoke("--out", str(out))
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(f"{out}: ") and reason in str(result.exception)


def test_rows_that_cannot_be_written_are_refused_before_anything_is_timed(
    pretend_gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*_: object, **__: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr("clinreadnet.tuning.tune.tune", timed)
    result = invoke("--rows", str(tmp_path / "missing" / "rows.jsonl"))
    assert isinstance(result.exception, InputError)
    assert str(tmp_path / "missing") in str(result.exception)


def test_each_trial_is_a_row_and_the_shortlist_decides_what_is_tried(
    pretend_gpu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[Any] = []

    def shortlist(keys: tuple[str, ...], candidates: Any, most: int, **options: Any) -> list[Any]:
        calls.append((keys, len(candidates), most, options))
        return [{"block": 2}]

    monkeypatch.setattr(tune, "shortlist", shortlist)
    monkeypatch.setattr(tune, "multiprocessors_of", lambda device: 132)
    rows = tmp_path / "rows"
    options = ("--entry", "doubling/float16/64", "--candidates", "8", "--rows", str(rows))
    assert invoke(*options).exit_code == 0
    expected = {"capability": 90, "multiprocessors": 132}
    assert calls == [(("doubling", "float16", "64"), 3, 8, expected)]
    entry = {"entry": "doubling/float16/64", "dropped": None}
    assert [json.loads(line) for line in rows.read_text().splitlines()] == [
        entry | {"config": {"block": block}, "milliseconds": [ms, ms]}
        for block, ms in ((1, 1.0), (2, 0.5))
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--entry", "halving"], "--entry halving: unknown; known: doubling/", id="op"),
        pytest.param(["--dry-run", "--out", "x"], "--dry-run and --out exclude", id="dry-out"),
        pytest.param(["--out", "no/such/folder/x.json"], "no such folder", id="folder"),
    ],
)
def test_bad_options_are_one_line(pretend_gpu: Path, options: list[str], message: str) -> None:
    result = invoke(*options)
    assert getattr(result.exception, "exit_code", None) == 2
    assert message in str(result.exception)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    result = invoke()
    assert getattr(result.exception, "exit_code", None) == 2
    assert "tune needs an NVIDIA GPU" in str(result.exception)


@pytest.mark.gpu
def test_one_entry_on_this_gpu() -> None:
    tuning = tune.tune(only=["window_attention/float16/64"])
    (result,) = tuning.tuned
    assert all(0 < ms < 1000 for ms in result.best.milliseconds)
    assert len(result.best.milliseconds) == 4
