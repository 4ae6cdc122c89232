"""What a run says at its start: the processor, and an estimate that counts what is to be done."""

from pathlib import Path

import pytest
import torch

from agentrefine.params import load_params
from agentrefine.tuning import hardware
from agentrefine.tuning.hardware import processor, usable_cores
from flows import estimate

PARAMS = load_params(Path("params.yaml"))
SPEED = estimate.REFERENCE_TOKENS_PER_SECOND


def test_an_estimate_counts_only_the_stages_that_run_and_follows_the_processors_speed(monkeypatch):
    monkeypatch.setattr(estimate, "tunings_at_once", lambda _: 2)
    all_stages = ["synthesis", "base_model", "tuning@a", "tuning@b", "evaluation@a", "report"]
    whole = estimate.seconds(PARAMS, all_stages, SPEED)
    assert estimate.seconds(PARAMS, all_stages[1:], SPEED) < whole
    assert whole < estimate.seconds(PARAMS, all_stages, SPEED / 2) < 2 * whole
    one, two, three = (estimate.seconds(PARAMS, [f"tuning@{i}" for i in range(n)], SPEED) for n in (1, 2, 3))
    assert two - one == pytest.approx(estimate.SECONDS_PER_STAGE)
    assert three - two > 10 * estimate.SECONDS_PER_STAGE


@pytest.mark.skipif(torch.cuda.is_available(), reason="estimates are for CPUs")
def test_the_first_lines_name_the_processor_and_the_minutes(monkeypatch):
    monkeypatch.setattr(estimate, "training_speed", lambda: SPEED)
    lines = estimate.estimate(PARAMS, ["base_model", "report"])
    assert f"{usable_cores()} core" in lines[0]
    assert "2 stages" in lines[-1]
    other = PARAMS.model_copy(update={"base_model": PARAMS.base_model.model_copy(update={"path": "some/model"})})
    assert "some/model" in estimate.estimate(other, ["base_model"])[-1]


def test_the_speed_is_measured_without_leaving_other_threads_behind():
    before = torch.get_num_threads()
    assert estimate.training_speed() > 0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("kernels", "named", "warned"), [("AVX512", "AVX-512", False), ("AVX2", "AVX2", False), ("DEFAULT", "x86_64", True)]
)
def test_a_processor_without_avx2_is_warned_of(monkeypatch, kernels, named, warned):
    has = {"architecture": "x86_64", "cpu_name": "Some CPU"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    found = processor()
    assert found.description.startswith("Some CPU, ")
    assert f" {named}, no bf16" in found.description
    assert bool(found.warning) is warned


@pytest.mark.parametrize(("granted", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)])
def test_a_containers_share_of_the_processor_counts(tmp_path, monkeypatch, granted, cores):
    monkeypatch.setattr(hardware, "CONTAINER_LIMIT", tmp_path / "cpu.max")
    everything = usable_cores()
    (tmp_path / "cpu.max").write_text(f"{granted}\n")
    assert usable_cores() == (cores or everything)
