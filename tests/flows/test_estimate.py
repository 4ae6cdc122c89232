"""What a run says at its start: the processor, and an estimate that counts what is to be done."""

from pathlib import Path

import pytest
import torch

from agentrefine.params import Params, load_params
from agentrefine.params.tuning import Mix
from agentrefine.tuning import hardware
from agentrefine.tuning.hardware import processor, usable_cores
from flows import estimate
from flows.pipeline import stages

PARAMS = load_params(Path("params.yaml"))
SPEED = estimate.REFERENCE_TOKENS_PER_SECOND


def whole(addresses: list[str], speed: float) -> float:
    return sum(row.seconds for row in estimate.plan(PARAMS, addresses, speed))


def changed(section: str, **values: object) -> Params:
    return PARAMS.model_copy(update={section: getattr(PARAMS, section).model_copy(update=values)})


def test_an_estimate_counts_only_the_stages_that_run_and_follows_the_processors_speed(monkeypatch):
    monkeypatch.setattr(estimate, "tunings_at_once", lambda _: 2)
    all_stages = ["synthesis", "base_model", "tuning@a", "tuning@b", "evaluation@a", "report"]
    everything = whole(all_stages, SPEED)
    assert whole(all_stages[1:], SPEED) < everything
    assert everything < whole(all_stages, SPEED / 2) < 2 * everything
    one, two, three = (whole([f"tuning@{i}" for i in range(n)], SPEED) for n in (1, 2, 3))
    assert two - one == pytest.approx(estimate.SECONDS_PER_STAGE)
    assert three - two > 10 * estimate.SECONDS_PER_STAGE


def test_the_default_run_takes_the_minutes_that_were_measured_on_the_reference_machine(monkeypatch):
    monkeypatch.setattr(estimate, "tunings_at_once", lambda _: 2)
    everything = [stage.address for stage in stages(PARAMS)]
    assert 8 < whole(everything, SPEED) / 60 < 14


def test_every_stage_has_a_row_that_says_what_it_does():
    mixed = {"chat20": Mix(data_set="data/dataset", chat="chat.json", share=0.2)}
    everything = [stage.address for stage in stages(PARAMS.model_copy(update={"mix": mixed}))]
    rows = estimate.plan(PARAMS, everything, SPEED)
    assert [address for row in rows for address in row.stages] == everything
    assert all(row.what and row.seconds for row in rows)
    assert all(len(row.line()) <= 100 for row in rows)


def test_what_a_paid_teacher_takes_is_not_known():
    remote = {"base_url": "https://example.org/v1", "model": "m"}
    rows = estimate.plan(changed("teacher", **remote), ["synthesis", "verification", "repair"], SPEED)
    assert [row.seconds is None for row in rows] == [True, False, True]


def test_simulators_count_where_they_are_played():
    def seconds(benchmarks):
        return estimate.plan(changed("evaluation", benchmarks=benchmarks), ["evaluation@base"], SPEED)[0].seconds

    assert seconds(["worlds_layouts"]) < seconds(["worlds_layouts", "babyai"]) < seconds("installed")
    assert seconds(["babyai", "textworld"]) > seconds(["babyai"])


@pytest.mark.parametrize(
    ("seconds", "written"), [(1, "5 s"), (44, "45 s"), (100, "2 min"), (3000, "50 min"), (7200, "2.0 h")]
)
def test_a_duration_is_as_exact_as_it_can_be(seconds, written):
    assert estimate.duration(seconds) == written


@pytest.mark.skipif(torch.cuda.is_available(), reason="estimates are for CPUs")
def test_the_first_lines_name_the_processor_and_what_runs(monkeypatch):
    monkeypatch.setattr(estimate, "training_speed", lambda: SPEED)
    lines = estimate.estimate(PARAMS, ["base_model", "report"])
    assert f"{usable_cores()} core" in lines[0]
    assert lines[-3].startswith("2 stages to run, in about ")
    assert [line.split()[0] for line in lines[-2:]] == ["base_model", "report"]
    other = estimate.estimate(changed("base_model", path="some/model"), ["base_model"])
    assert "some/model" in other[-1]
    assert "not known" in other[-1]
    assert "without what is not known" in other[-2]


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
