"""Tuning that is interrupted: it resumes at a checkpoint and ends with the same weights."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from datasets import Dataset

from agentrefine.files import read_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.tuning import checkpoints
from agentrefine.tuning.chat_template import render
from agentrefine.tuning.models import load_base
from agentrefine.tuning.train import TuningJob, tune
from tests.helpers.project import digests
from tests.helpers.tuning_samples import NOUNS, job, masked_loss, write_base, write_data_set

pytestmark = pytest.mark.timeout(300)

KINDS = {
    "full, Muon": {},
    "LoRA with dropout": {
        "method": "lora",
        "muon_learning_rate": None,
        "lora": {
            "r": 4, "lora_alpha": 8, "lora_dropout": 0.2, "target_modules": "all-linear",
            "use_rslora": True, "use_dora": False,
        },
    },
    "accumulation, packed": {"gradient_accumulation_steps": 2, "packing": True, "muon_learning_rate": None},
    "padding-free, DoRA": {
        "method": "lora",
        "padding_free": True,
        "muon_learning_rate": None,
        "lora": {
            "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear",
            "use_rslora": False, "use_dora": True,
        },
    },
}  # fmt: skip


def killed_at(step: int, tuning: TuningJob, out: Path, when: str = "done") -> None:
    """Tune in another process, which is killed once it has done a step, or saved its checkpoint."""
    file = out.parent / "job.json"
    file.write_text(tuning.model_dump_json())
    done = subprocess.run(
        [sys.executable, "tests/helpers/tune_until_killed.py", str(file), str(out), str(step), when],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not out.exists()


def last_saved(killed_after: int, every: int) -> int:
    """The last checkpoint of a process that was killed when a step was done but not yet saved."""
    return (killed_after - 1) // every * every


def replicas_of_this_test() -> list[psutil.Process]:
    """Processes that were started to tune with another and still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            of_test = process.environ().get("PYTEST_CURRENT_TEST") == os.environ["PYTEST_CURRENT_TEST"]
            if of_test and "agentrefine.tuning.train" in process.cmdline():
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_twice_tuning_ends_with_the_bytes_of_one_that_was_not(base, data_set, tmp_path, kind):
    settings = {"epochs": 3, "checkpoint_steps": 3, "eval_steps": 4, **KINDS[kind]}
    whole = tune(job(base, data_set, **settings), tmp_path / "whole")
    per_epoch = whole.steps // 3
    interrupted = job(base, data_set, tmp_path / "checkpoints", **settings)
    killed_at(per_epoch - 1, interrupted, tmp_path / "out")
    killed_at(2 * per_epoch + 1, interrupted, tmp_path / "out")
    result = tune(interrupted, tmp_path / "out")
    assert result.resumed_at == last_saved(2 * per_epoch + 1, every=3)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert result.curve == whole.curve
    assert (result.validation_loss_before, result.validation_loss) == (
        whole.validation_loss_before,
        whole.validation_loss,
    )
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("behind", [False, True])
def test_a_number_of_tokens_is_kept_after_a_kill_before_or_behind_the_last_step(base, data_set, tmp_path, behind):
    settings = {"tokens": 3000, "eval_steps": 4, "checkpoint_steps": 4}
    whole = tune(job(base, data_set, **settings), tmp_path / "whole")
    interrupted = job(base, data_set, tmp_path / "checkpoints", **settings)
    killed_at(whole.steps - (not behind), interrupted, tmp_path / "out", when="saved" if behind else "done")
    result = tune(interrupted, tmp_path / "out")
    assert (result.steps, result.tokens) == (whole.steps, whole.tokens)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["before", "behind"])
def test_an_early_stop_is_the_same_after_a_kill_before_or_behind_it(base, data_set, tmp_path, killed):
    settings = {"epochs": 12, "learning_rate": 0.05, "eval_steps": 4, "checkpoint_steps": 4, "muon_learning_rate": 0.2}
    stopping = {**settings, "early_stopping": {"patience": 1, "min_delta": 0.0}}
    whole = tune(job(base, data_set, **stopping), tmp_path / "whole")
    assert whole.steps < 240
    interrupted = job(base, data_set, tmp_path / "checkpoints", **stopping)
    if killed == "before":
        killed_at(whole.steps - 1, interrupted, tmp_path / "out")
    else:
        killed_at(whole.steps, interrupted, tmp_path / "out", when="saved")
    result = tune(interrupted, tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert (result.steps, result.curve) == (whole.steps, whole.curve)


@pytest.mark.slow
def test_two_processes_resume_after_one_was_killed(base, data_set, tmp_path):
    settings = {"epochs": 3, "checkpoint_steps": 2, "cpu_processes": 2, "gradient_accumulation_steps": 2}
    whole = tune(job(base, data_set, **settings), tmp_path / "whole")
    interrupted = job(base, data_set, tmp_path / "checkpoints", **settings)
    killed_at(whole.steps // 2, interrupted, tmp_path / "out")
    time.sleep(1)
    assert not replicas_of_this_test()
    result = tune(interrupted, tmp_path / "out")
    assert result.resumed_at == last_saved(whole.steps // 2, every=2)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


@pytest.fixture(scope="module")
def left(base, data_set, tmp_path_factory) -> Path:
    """A folder of checkpoints as a killed tuning leaves it."""
    folder = tmp_path_factory.mktemp("killed")
    killed_at(9, job(base, data_set, folder / "checkpoints", checkpoint_steps=2, epochs=3), folder / "out")
    return folder / "checkpoints"


def test_checkpoints_are_bounded_in_number_and_whole(left):
    (settings,) = left.iterdir()
    found = sorted(settings.glob("checkpoint-*"))
    assert [c.name for c in found] == ["checkpoint-6", "checkpoint-8"]
    assert [checkpoints.why_invalid(c) for c in found] == [None, None]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: os.truncate(c / "model.safetensors", 1000), r"model\.safetensors has 1000 bytes instead of"),
        (lambda c: (c / "optimizer.pt").unlink(), r"optimizer\.pt is missing"),
        (lambda c: _flip_a_byte(c / "model.safetensors"), r"model\.safetensors has changed"),
        (lambda c: (c / "manifest.json").unlink(), "it was not finished"),
        (lambda c: os.truncate(c / "manifest.json", 20), r"its manifest\.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning_for_the_one_before(left, tmp_path, caplog, damage, reason):
    shutil.copytree(left, tmp_path / "checkpoints")
    (settings,) = (tmp_path / "checkpoints").iterdir()
    damage(settings / "checkpoint-8")
    assert checkpoints.newest(settings) == settings / "checkpoint-6"
    assert len(caplog.messages) == 1
    assert f"checkpoint-8 cannot be used ({reason}".replace("\\", "") in caplog.messages[0]
    assert not (settings / "checkpoint-8").exists()


def test_tuning_resumes_at_the_checkpoint_before_a_truncated_one(base, data_set, left, tmp_path):
    shutil.copytree(left, tmp_path / "checkpoints")
    (settings,) = (tmp_path / "checkpoints").iterdir()
    os.truncate(settings / "checkpoint-8" / "optimizer.pt", 100)
    result = tune(job(base, data_set, tmp_path / "checkpoints", checkpoint_steps=2, epochs=3), tmp_path / "out")
    assert result.resumed_at == 6
    whole = tune(job(base, data_set, checkpoint_steps=2, epochs=3), tmp_path / "whole")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert result.curve == whole.curve


def test_checkpoints_of_other_settings_are_not_used_and_the_last_ones_kept(left, tmp_path, caplog):
    shutil.copytree(left, tmp_path / "checkpoints")
    (settings,) = (tmp_path / "checkpoints").iterdir()
    checkpoints.remove_others(tmp_path / "checkpoints", "another key")
    assert list((tmp_path / "checkpoints").iterdir()) == [settings]
    shutil.copytree(settings, tmp_path / "checkpoints" / "older")
    os.utime(tmp_path / "checkpoints" / "older", (1, 1))
    checkpoints.remove_others(tmp_path / "checkpoints", "another key")
    assert list((tmp_path / "checkpoints").iterdir()) == [settings]
    assert ["older holds checkpoints of earlier settings" in message for message in caplog.messages] == [True]


OTHER_JOBS = {
    "train_on": {"train_on": "with_erroneous_loss"},
    "seed": {"seed": 8},
    "learning rate": {"learning_rate": 1e-3},
    "epochs": {"epochs": 4},
    "packing": {"packing": True},
    "precision": {"precision": "bf16"},
    "adapter": {"method": "lora"},
}


@pytest.mark.parametrize("change", OTHER_JOBS)
def test_every_setting_that_changes_weights_has_checkpoints_of_its_own(base, data_set, change):
    first = job(base, data_set, epochs=3)
    fields = {name: value for name, value in OTHER_JOBS[change].items() if name in ("train_on", "seed")}
    params = {name: value for name, value in OTHER_JOBS[change].items() if name not in fields}
    assert job(base, data_set, **{"epochs": 3, **params}).model_copy(update=fields).key(1) != first.key(1)


def test_other_data_another_base_sharding_and_more_processes_have_checkpoints_of_their_own(
    base, data_set, tmp_path, monkeypatch
):
    first = job(base, data_set)
    assert first.key(1) == job(base, data_set, checkpoint_steps=7, checkpoints_kept=9, launcher="torchrun").key(1)
    keys = {
        first.key(1),
        first.key(2),
        job(base, write_data_set(tmp_path / "data", samples=59)).key(1),
        job(write_base(tmp_path / "base", initializer_range=0.3), data_set).key(1),
    }
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert len(keys | {first.key(1)}) == 5


def test_how_often_checkpoints_are_written_changes_no_weights(base, data_set, left, tmp_path):
    shutil.copytree(left, tmp_path / "checkpoints")
    result = tune(job(base, data_set, tmp_path / "checkpoints", checkpoint_steps=5, epochs=3), tmp_path / "out")
    assert result.resumed_at == 8


def test_early_stopping_keeps_the_best_model(base, data_set, tmp_path):
    settings = {"epochs": 12, "learning_rate": 0.05, "eval_steps": 4, "checkpoint_steps": 4, "muon_learning_rate": 0.2}
    long = tune(job(base, data_set, **settings), tmp_path / "long")
    stopped = tune(
        job(base, data_set, **settings, early_stopping={"patience": 2, "min_delta": 0.0}), tmp_path / "stopped"
    )
    assert stopped.steps < long.steps
    looks = [point.loss for point in stopped.validation_curve]
    assert stopped.validation_loss == min(looks) < looks[-1]
    model, _ = load_base(tmp_path / "stopped")
    assert model.num_parameters() == stopped.parameters


@pytest.fixture(scope="module")
def misleading(tmp_path_factory) -> Path:
    """A data set whose validation samples ask for other things than the training samples: it is soon learned by heart,
    and the validation loss, which falls at first, rises."""
    folder = write_data_set(tmp_path_factory.mktemp("misleading"))
    file = folder / "validation.jsonl"
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    for message in (message for sample in samples for message in sample["conversations"] if message["from"] == "gpt"):
        message["value"] = re.sub("|".join(NOUNS), lambda found: NOUNS[NOUNS.index(found[0]) - 1], message["value"])
    file.write_text("".join(f"{json.dumps(sample)}\n" for sample in samples))
    return folder


RISING = {"epochs": 5, "eval_steps": 4, "checkpoint_steps": 4}


def test_the_best_and_not_the_last_weights_are_kept_where_that_is_asked_for(base, misleading, tmp_path):
    last = tune(job(base, misleading, **RISING), tmp_path / "last")
    best = tune(job(base, misleading, **RISING, keep_best=True), tmp_path / "best")
    looks = [point.loss for point in best.validation_curve]
    assert (best.steps, best.curve, best.validation_curve) == (last.steps, last.curve, last.validation_curve)
    assert last.validation_loss == looks[-1]
    assert best.validation_loss == min(looks) < looks[-1]
    model, tokenizer = load_base(tmp_path / "best")
    assert validation_loss_of(model, tokenizer, misleading) == pytest.approx(min(looks), abs=1e-5)
    assert digests(tmp_path / "best") != digests(tmp_path / "last")


@pytest.mark.slow
def test_the_best_weights_are_the_same_after_a_kill_behind_them(base, misleading, tmp_path):
    settings = {**RISING, "keep_best": True}
    whole = tune(job(base, misleading, **settings), tmp_path / "whole")
    best_at = min(whole.validation_curve, key=lambda point: point.loss).step
    killed = best_at + 9  # the best checkpoint is older than the two newest then
    assert killed < whole.steps
    interrupted = job(base, misleading, tmp_path / "checkpoints", **settings)
    killed_at(killed, interrupted, tmp_path / "out")
    result = tune(interrupted, tmp_path / "out")
    assert result.resumed_at > best_at
    assert result.validation_loss == whole.validation_loss
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def validation_loss_of(model, tokenizer, data_set) -> float:
    samples = read_jsonl(data_set / "validation.jsonl", Sample)
    rendered = [render(tokenizer, sample.messages(), "correct_turns") for sample in samples]
    return masked_loss(
        model, Dataset.from_dict({"input_ids": [r.ids for r in rendered], "labels": [r.labels for r in rendered]})
    )


def _flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
