"""Training on a small LDCTIQA folder whose labels follow from the noise."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.labelled_folder import make_labelled_folder

from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.evaluation.labels import evaluate
from clinreadnet.model.checkpoint import load_checkpoint, save_checkpoint
from clinreadnet.model.network import PRESETS, ClinReadNet
from clinreadnet.model.predict import predict
from clinreadnet.training import run, tasks
from clinreadnet.training import trainer as training
from clinreadnet.training.batches import Batch
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.dataset import load_slices
from clinreadnet.training.recipe import parse_duration
from clinreadnet.training.run import train
from clinreadnet.training.trainer import EMA_POWER, Trainer

TINY = TrainConfig(preset="tiny", epochs=2, batch_size=4, crop=256, validation_share=0.34)
SMALL = replace(PRESETS["tiny"], embed_dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8))
"""A network of one narrow block a stage, where only the loop is looked at."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_folder(tmp_path_factory.mktemp("data") / "slices")


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", SMALL)


def weights_of(run: Path) -> list[torch.Tensor]:
    return list(load_checkpoint(run / "model.safetensors").state_dict().values())


def rows_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "log.csv").open()))


@pytest.mark.usefixtures("shallow")
def test_a_run_lowers_the_loss_and_leaves_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = train([folder], run, replace(TINY, epochs=10, learning_rate=2e-3))
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == [str(i) for i in range(1, 11)]
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert float(rows[-1]["learning_rate"]) < 0.1 * 2e-3
    assert all(0 <= float(row["waiting_share"]) < 1 for row in rows)
    assert load_checkpoint(path).config.preset == "tiny"
    result = evaluate(folder, path)
    assert result["slices"] == 12 and result["srocc"]["value"] > 0.5
    assert result["srocc"]["low"] <= result["srocc"]["value"] <= result["srocc"]["high"]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["training_slices"], summary["validation_slices"]) == (8, 4)
    source = {"name": folder.name, "slices": 12, "seed": None, "breadth": "standard"}
    assert summary["data"] == [source] and result["data"] == source
    assert summary["steps"] == 20 and summary["slices_per_second"] > 0
    assert summary["kept"]["sum"] == max(float(row["sum"]) for row in rows)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())


@pytest.mark.usefixtures("shallow")
@pytest.mark.sample(every=3)
@pytest.mark.parametrize("cut", [1, 2, 3], ids=["mid-epoch", "end-of-epoch", "last-epoch"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, whole_run: Path, cut: int
) -> None:
    trainer = Trainer(TINY, load_slices([folder]), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(lambda: trainer.step == cut)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".safetensors") == []
    train([folder], tmp_path, TINY, resume=True)
    for a, b in zip(weights_of(whole_run), weights_of(tmp_path), strict=True):
        assert torch.equal(a, b)
    timed = {"minutes", "slices_per_second", "waiting_share"}
    for ours, theirs in zip(rows_of(tmp_path), rows_of(whole_run), strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {
            k: v for k, v in theirs.items() if k not in timed
        }


@pytest.fixture(scope="module")
def whole_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", SMALL)
        train([folder], run, TINY)
    return run


@pytest.mark.usefixtures("shallow")
def test_a_processor_that_emulates_bfloat16_trains_in_float32(
    folder: Path,
    whole_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tasks, "multiplies_bfloat16", lambda: False)
    train([folder], tmp_path, replace(TINY, bf16=True))
    assert "no bfloat16 instructions" in " ".join(capsys.readouterr().err.split())
    for a, b in zip(weights_of(whole_run), weights_of(tmp_path), strict=True):
        assert torch.equal(a, b)
    assert json.loads((tmp_path / "summary.json").read_text())["bfloat16"] is False


@pytest.mark.usefixtures("shallow")
def test_resume_refuses_other_settings(folder: Path, whole_run: Path) -> None:
    with pytest.raises(InputError, match="started with another seed"):
        train([folder], whole_run, replace(TINY, seed=1), resume=True)


@pytest.mark.usefixtures("shallow")
def test_resume_refuses_other_data(folder: Path, whole_run: Path, tmp_path: Path) -> None:
    other = make_labelled_folder(tmp_path / "other")
    with pytest.raises(InputError, match=r"started with other data \(slices\); give the run's own"):
        train([folder, other], whole_run, TINY, resume=True)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"PK\x03\x04" * 9], ids=["empty", "text", "zip"]
)
def test_resume_refuses_a_damaged_state(folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(InputError, match="last.pt: not a state of training"):
        train([folder], tmp_path, TINY, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == content


@pytest.mark.usefixtures("shallow")
def test_edge_statistics_are_calibrated_once(folder: Path, whole_run: Path, tmp_path: Path) -> None:
    trainer = Trainer(TINY, load_slices([folder]), tmp_path)
    statistics = trainer.model.statistics
    assert (statistics.scale > 1).all() and len(statistics.scale.unique()) > 1
    init = str(whole_run / "model.safetensors")
    goes_on = Trainer(replace(TINY, init=init, seed=7), load_slices([folder]), tmp_path)
    kept = load_checkpoint(init).statistics
    for model in (goes_on.model, goes_on.ema):
        assert torch.equal(model.statistics.shift, kept.shift)
        assert torch.equal(model.statistics.scale, kept.scale)


@pytest.mark.usefixtures("shallow")
def test_a_run_ends_with_a_calibrated_network(whole_run: Path) -> None:
    model = load_checkpoint(whole_run / "model.safetensors")
    assert model.head.temperature != 1 and model.novelty.threshold.isfinite()
    assert not torch.equal(model.novelty.whitening, torch.eye(len(model.novelty.mean)))


@pytest.mark.whole
@pytest.mark.usefixtures("shallow")
def test_tile_labels_teach_the_map(tmp_path: Path) -> None:
    folder = make_labelled_folder(tmp_path / "slices", tiles=True)
    config = replace(TINY, epochs=12, learning_rate=2e-3, validation_share=0.34)
    maps = {}
    for name, weight in (("with", 3.0), ("without", 0.0)):
        path = train([folder], tmp_path / name, replace(config, tile_weight=weight))
        hu = load_slices([folder]).images(np.arange(12))
        maps[name] = predict(load_checkpoint(path), hu)["quality_map"]
    # The left half has a grade less noise, at every noise level.
    left, right = (maps["with"][:, 1:, half].mean(axis=(1, 2)) for half in (slice(8), slice(8, 16)))
    assert (left > right).all()
    assert np.ptp(maps["with"]) > np.ptp(maps["without"])
    last = rows_of(tmp_path / "with")[-1]
    assert float(last["map_correlation"]) > 0.5


@pytest.mark.usefixtures("shallow")
def test_a_state_of_another_networks_optimisers_is_refused(
    folder: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(whole_run / "last.pt", weights_only=True)
    monkeypatch.setitem(PRESETS, "tiny", replace(SMALL, depths=(1, 1, 2, 1)))
    trainer = Trainer(TINY, load_slices([folder]), tmp_path)
    with pytest.raises(InputError, match="optimiser is of another network"):
        trainer.optimisers.load_state_dict(state["optimisers"])


def test_quality_is_learned_and_scores_are_validated_against(tmp_path: Path) -> None:
    folder = make_labelled_folder(tmp_path / "slices", quality=True)
    trainer = Trainer(replace(TINY, target="quality"), load_slices([folder]), tmp_path / "run")
    np.testing.assert_array_equal(np.unique(trainer.training.scores), [0.75, 1.75, 2.75, 3.75])
    np.testing.assert_array_equal(np.unique(trainer.validation.scores), [1, 2, 3, 4])
    first, *_ = trainer.batches.after(0)
    assert set(first.scores.tolist()) <= {0.75, 1.75, 2.75, 3.75}


def test_quality_must_be_recorded(folder: Path, tmp_path: Path) -> None:
    """Even of one folder among several; nothing is left behind."""
    other = make_labelled_folder(tmp_path / "with", seed=1, quality=True)
    config = replace(TINY, target="quality", validation_share=0.17)
    with pytest.raises(
        InputError, match=r"target=quality: \d+ of 20 training slices .* use target"
    ):
        train([other, folder], tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("shallow")
def test_a_checkpoint_of_another_shape_is_named(folder: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other.safetensors")
    save_checkpoint(ClinReadNet(replace(SMALL, octaves=1)), other)
    with pytest.raises(InputError, match="other.safetensors: .* another octaves"):
        train([folder], tmp_path / "run", replace(TINY, init=other))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("shallow")
def test_the_shipped_weights_are_a_moving_average(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(replace(TINY, epochs=5000), load_slices([folder]), tmp_path)
    weight = trainer.model.stem.embed.weight
    batch, *_ = trainer.batches.after(0)
    trainer.train_step(batch)
    torch.testing.assert_close(
        trainer.ema.stem.embed.weight, weight, msg="the first is the average"
    )
    before, trainer.step = trainer.ema.stem.embed.weight.clone(), 998
    trainer.train_step(batch)
    share = 0.999 ** (EMA_POWER + 1)
    expected = share * before + (1 - share) * weight
    torch.testing.assert_close(trainer.ema.stem.embed.weight, expected, rtol=0, atol=1e-8)
    assert (weight - expected).abs().max() > 1e-6


@pytest.mark.usefixtures("shallow")
@pytest.mark.sample(every=2)
@pytest.mark.parametrize(("keep", "written"), [("best", 1), ("last", 3)])
def test_an_epoch_is_kept_and_patience_ends_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, written: int
) -> None:
    config = replace(TINY, epochs=50, patience=2, keep=keep)
    trainer = Trainer(config, load_slices([folder]), tmp_path)
    finish, kept = trainer.finish_epoch, []

    def scored() -> dict[str, float]:
        row = finish() | {"sum": [float("nan"), 2.0, 1.5, 1.9, 2.5][len(kept)]}
        kept.append(trainer.ema.stem.embed.weight.clone())
        return row

    monkeypatch.setattr(trainer, "finish_epoch", scored)
    trainer.run()
    assert len(rows_of(tmp_path)) == 4, "two epochs after the second, no better"
    saved = load_checkpoint(tmp_path / "model.safetensors").stem.embed.weight
    torch.testing.assert_close(saved, kept[written].half().float())
    assert json.loads((tmp_path / "summary.json").read_text())["kept"]["epoch"] == written + 1


@pytest.mark.usefixtures("shallow")
def test_a_time_limit_ends_the_schedule(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train([folder], run, replace(TINY, epochs=1000, limit_seconds=1.0))
    rows = rows_of(run)
    assert float(rows[-1]["learning_rate"]) < 1e-4 and int(rows[-1]["epoch"]) < 1000
    assert 1.0 <= 60 * float(rows[-1]["minutes"]) < 10


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5m", 90)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "-3m", "0s", "1h30m"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="write 90s, 30m or 2h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"crop": 300}, "known: 256, 512", id="crop"),
        pytest.param({"task": "stem"}, "known: network, head", id="task"),
        pytest.param({"task": "head"}, "task=head needs `init`", id="head"),
        pytest.param({"tile_weight": -1.0}, "must be 0 or more", id="tile-weight"),
        pytest.param({"preset": "huge"}, "known: tiny, small, base", id="preset"),
        pytest.param({"init": "missing.safetensors"}, "no such checkpoint", id="init"),
        pytest.param(
            {"loss": "mse"}, "known: hrps, rps-fine, rps-coarse, cross-entropy", id="loss"
        ),
        pytest.param({"keep": "first"}, "known: best, last", id="keep"),
        pytest.param({"target": "votes"}, "known: score, quality", id="target"),
        pytest.param({"most_slices": 0}, "must be 1 or more", id="most-slices"),
        pytest.param({"batch_size": 9}, "only 8 slices to train on", id="batch"),
    ],
)
def test_bad_settings_leave_no_run_folder(
    folder: Path, tmp_path: Path, change: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train([folder], tmp_path / "run", replace(TINY, **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "resume", "message"),
    [
        pytest.param({"preset": "huge"}, False, "known: tiny, small, base", id="preset"),
        pytest.param({"init": "missing.safetensors"}, False, "no such checkpoint", id="init"),
        pytest.param({}, True, "nothing to resume", id="resume"),
        pytest.param({"validation_share": 0.0}, False, "without the ends", id="share"),
    ],
)
def test_settings_are_checked_before_the_slices_are_read(
    tmp_path: Path, change: dict, resume: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train([tmp_path / "no-slices"], tmp_path / "run", replace(TINY, **change), resume=resume)


def test_an_existing_run_folder_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="already exists"):
        train([folder], tmp_path, TINY)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    ("error", "batch_size", "advice"),
    [
        pytest.param(
            torch.OutOfMemoryError("CUDA out of memory."), 4, "try batch_size=2", id="gpu"
        ),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            3,
            "try batch_size=1",
            id="cpu",
        ),
        pytest.param(torch.OutOfMemoryError("CUDA"), 1, "try crop=256 or a smaller", id="one"),
    ],
)
def test_out_of_memory_says_which_batch_to_try(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    batch_size: int,
    advice: str,
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(ClinReadNet, "predict", fail)
    with pytest.raises(InputError, match=f"out of memory with batch_size={batch_size}; {advice}"):
        train([folder], tmp_path / "run", replace(TINY, batch_size=batch_size))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("shallow")
def test_other_errors_are_not_taken_for_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("shapes")

    monkeypatch.setattr(ClinReadNet, "predict", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        train([folder], tmp_path / "run", TINY)


@pytest.mark.usefixtures("shallow")
def test_a_diverged_run_stops(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = {"hrps": lambda probs, scores: probs.sum() * float("nan")}
    monkeypatch.setattr(training, "LOSSES", nan)
    with pytest.raises(CheckFailed, match="not finite in epoch 1; .* lower `learning_rate`"):
        train([folder], tmp_path / "run", TINY)


@pytest.mark.usefixtures("shallow")
def test_a_run_killed_before_its_first_state_is_started_anew(folder: Path, tmp_path: Path) -> None:
    left = tmp_path / ".last.pt.abc.writing"
    left.mkdir()
    (left / ".clinreadnet-writes").write_text("last.pt")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "log.csv").write_text("epoch\n")
    assert train([folder], tmp_path, replace(TINY, epochs=1)).exists() and not left.exists()
    with pytest.raises(InputError, match="already exists"):
        train([folder], tmp_path, TINY)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with run.interrupts() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted()
            signal.raise_signal(signal.SIGTERM)
            assert interrupted()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("shallow", "interruptible")
def test_an_interrupt_waits_for_the_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.train_step

    def interrupted_step(self: Trainer, batch: Batch) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "train_step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        train([folder], tmp_path / "run", TINY)
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 1
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.whole
def test_a_terminated_process_leaves_a_state_to_resume_and_no_half_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "clinreadnet.cli", "train", "--preset", "tiny"]
    options = ["--crop", "256", "--data", str(folder), "--out", str(run), "--batch-size", "4"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (run / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    state = torch.load(run / "last.pt", weights_only=True)
    assert process.returncode == 130, stderr
    assert f"interrupted at step {state['step']}; the run can be resumed" in stderr
    assert {p.name for p in run.iterdir()} <= {"last.pt", "log.csv", "tensorboard"}
    trainer = Trainer(TrainConfig(**state["config"]), load_slices([folder]), run)
    trainer.resume()
    assert trainer.step == state["step"] > 0


WORKER = """
import sys
from dataclasses import replace
from clinreadnet.training import run
from clinreadnet.model.network import PRESETS
from test_trainer import SMALL, TINY, Recorder

PRESETS["tiny"] = SMALL
run.Trainer = Recorder
run.train([sys.argv[1]], sys.argv[2], TINY)
"""


class Recorder(Trainer):
    """A trainer that saves the gradients of the first step and the weights of the last step."""

    def keep(self, name: str, value: dict[str, torch.Tensor]) -> None:
        torch.save(value, f"{self.out}-{name}-{self.ranks.rank}.pt")

    def train_step(self, batch: Batch) -> torch.Tensor:
        loss = super().train_step(batch)
        if self.step == 0:
            gradients = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
            self.keep("gradients", gradients)
        self.keep("weights", self.model.state_dict())
        return loss


@pytest.mark.whole
@pytest.mark.usefixtures("shallow")
def test_two_ranks_train_as_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(worker)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
    }
    done = subprocess.run(
        [sys.executable, *launch, str(folder), str(tmp_path / "run2")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    monkeypatch.setattr(run, "Trainer", Recorder)
    train([folder], tmp_path / "run1", TINY)

    for name, tolerance in (("gradients", 1e-4), ("weights", 1e-2)):
        joint, first, second = (
            torch.load(f"{tmp_path}/{run}-{name}-{rank}.pt", weights_only=True)
            for run, rank in (("run1", 0), ("run2", 0), ("run2", 1))
        )
        # The threshold of novelty is infinite until the run ends.
        joint = {key: value for key, value in joint.items() if value.isfinite().all()}
        largest = max(value.abs().max() for value in joint.values())
        assert joint.keys() <= first.keys() == second.keys() and len(joint) > 30
        for key in joint:
            assert torch.equal(first[key], second[key]), key
            assert (first[key] - joint[key]).abs().max() < tolerance * largest, key
    # Validation is shared out, and one process writes.
    ours, theirs = rows_of(tmp_path / "run2"), rows_of(tmp_path / "run1")
    np.testing.assert_allclose(
        [float(row["loss"]) for row in ours], [float(row["loss"]) for row in theirs], rtol=1e-3
    )
    assert float(ours[-1]["validation_rmse"]) == pytest.approx(
        float(theirs[-1]["validation_rmse"]), rel=1e-2
    )
