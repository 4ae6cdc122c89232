"""Presets and device configurations: every one of them fits what reads it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from dvc.utils.hydra import apply_overrides

from agentrefine.params import load_params
from agentrefine.params.evaluation import PLAYED_BY_DEFAULT
from agentrefine.params.presets import Change, apply_preset, preset_names, values_beside
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT

PRESETS = ROOT / "presets"
COMMITTED = (ROOT / "params.yaml").read_text()
MODELS = {
    "llama-3-8b-full": ("meta-llama/Meta-Llama-3-8B", 8192),
    "llama-3-8b-lora": ("meta-llama/Meta-Llama-3-8B", 8192),
    "mistral-7b-full": ("mistralai/Mistral-7B-v0.3", 8192),
    "mistral-7b-lora": ("mistralai/Mistral-7B-v0.3", 8192),
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B-Instruct", 8192),
    "qwen2.5-0.5b": ("Qwen/Qwen2.5-0.5B-Instruct", 8192),
    "smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", 4096),
    "smollm2-135m-cpu": ("HuggingFaceTB/SmolLM2-135M-Instruct", 2048),
}
"""The base of each model's preset and the longest game that it trains on, in tokens."""

OF_DEFAULTS = (
    "; four games",
    "; the longest of the tiny model's games has 38",
    '; "tiny" makes a Llama of 0.9 M parameters here',
)
"""The ends of the comments that are true of the defaults only."""

PAPERS = ["llama-3-8b-full", "llama-3-8b-lora", "mistral-7b-full", "mistral-7b-lora"]
"""Presets of models that the paper tuned."""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A copy of the committed params.yaml."""
    file = tmp_path / "params.yaml"
    file.write_text(COMMITTED)
    return file


def write_preset(folder: Path, text: str) -> Path:
    (folder / "presets").mkdir()
    (folder / "presets" / "mine.yaml").write_text(text)
    return folder / "presets"


def comments(text: str) -> list[str]:
    return [line.partition("# ")[2] for line in text.splitlines() if "# " in line]


def sections_with_a_blank_line_before(text: str) -> set[str]:
    return {found[1] for found in re.finditer(r"\n\n(\w+):", text)}


@pytest.mark.parametrize("name", preset_names(PRESETS))
def test_every_preset_applies_to_the_committed_parameters_and_keeps_their_comments(params: Path, name: str) -> None:
    before = load_params(params)
    changes = apply_preset(name, params, PRESETS)
    assert changes
    assert load_params(params) != before
    kept = set(comments(params.read_text()))
    gone = [comment for comment in comments(COMMITTED) if comment not in kept]
    written = {change.key.rpartition(".")[2] for change in changes}
    of_changed = [line for line in COMMITTED.splitlines() if line.strip().partition(":")[0] in written]
    assert gone == [comment for comment in comments("\n".join(of_changed)) if comment.endswith(OF_DEFAULTS)]
    text = params.read_text()
    assert sections_with_a_blank_line_before(text) == set(yaml.safe_load(text)), "and their blank lines"
    assert text.count("\n\n") == len(yaml.safe_load(text))
    again = params.read_bytes()
    assert apply_preset(name, params, PRESETS) == []
    assert params.read_bytes() == again


@pytest.mark.parametrize("name", [None, *preset_names(PRESETS)])
def test_an_experiment_changes_the_lines_of_its_own_parameters_only(params: Path, name: str | None) -> None:
    if name:
        apply_preset(name, params, PRESETS)
    before = params.read_text()
    apply_overrides(params, ["seed=7"])  # what `dvc exp run -S` calls
    assert params.read_text() == before
    apply_overrides(params, ["seed=8", "++tuning.weight_decay=0.01", "report.baseline=base", "personas.limit=3"])
    written = params.read_text().splitlines()
    kept = set(written)
    gone = [line for line in before.splitlines() if line not in kept]
    assert [line.split(":")[0].strip() for line in gone] == ["seed", "limit", "baseline"]
    assert comments("\n".join(written)) == comments(before)


def test_lists_of_a_preset_are_written_as_dvc_writes_them(params: Path, tmp_path: Path) -> None:
    folder = write_preset(
        tmp_path,
        "evaluation:\n  benchmarks: [worlds_layouts, babyai]\n  endpoints:\n    a:\n      base_url: http://127.0.0.1:1/v1\n"
        "      model: m\n      api_key_env: KEY\n      extra_body: {stop: [x, y]}\n",
    )
    apply_preset("mine", params, folder)
    before = params.read_bytes()
    assert b"  - worlds_layouts\n  - babyai\n" in before
    apply_overrides(params, ["seed=7"])
    assert params.read_bytes() == before


def test_lines_that_a_preset_does_not_concern_stay_as_they_are(params: Path) -> None:
    apply_preset("llama-3-8b-lora", params, PRESETS)
    kept = set(params.read_text().splitlines())
    gone = [line for line in COMMITTED.splitlines() if line not in kept]
    assert len(gone) == 10, gone
    added = {
        f"{section}.{key}"
        for section, values in yaml.safe_load(params.read_text()).items()
        if isinstance(values, dict)
        for key in values.keys() - yaml.safe_load(COMMITTED).get(section, {}).keys()
    }
    preset = yaml.safe_load((PRESETS / "llama-3-8b-lora.yaml").read_text())
    assert added <= {f"{section}.{key}" for section, values in preset.items() for key in values}


@pytest.mark.parametrize("name", MODELS)
def test_a_models_preset_names_a_hub_id_and_lets_long_games_through_the_gate_and_into_training(
    params: Path, name: str
) -> None:
    apply_preset(name, params, PRESETS)
    chosen = load_params(params)
    path, longest = MODELS[name]
    assert chosen.base_model.path == path
    assert chosen.quality_gate.thresholds.trajectory.tokens.max == chosen.tuning.max_length == longest
    assert chosen.tuning.method == ("lora" if name.endswith("lora") else "full")
    assert chosen.tuning.muon_learning_rate is None
    launcher = chosen.tuning.launcher.split()
    assert all((ROOT / word).is_file() for word in launcher if word.startswith("configs/"))


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_models_are_tuned_as_it_is_reported_and_the_preset_says_by_whom(params: Path, name: str) -> None:
    apply_preset(name, params, PRESETS)
    tuning = load_params(params).tuning
    assert (tuning.epochs, tuning.lr_scheduler_type, tuning.warmup_steps, tuning.keep_best) == (10, "cosine", 0, True)
    assert tuning.learning_rate == (5e-6 if name.endswith("full") else 1e-4)
    assert tuning.batch_tokens == 64 * 1024
    assert "secondary sources report" in (PRESETS / f"{name}.yaml").read_text()


def test_make_smollm_plays_what_the_plain_installation_can_whatever_is_installed_later(params: Path) -> None:
    apply_preset("smollm2-135m-cpu", params, PRESETS)
    assert load_params(params).evaluation.benchmarks == PLAYED_BY_DEFAULT


def test_every_preset_but_the_studies_and_the_first_look_is_a_models() -> None:
    assert set(preset_names(PRESETS)) == {*MODELS, "ablations", "smoke", "study"}


def test_one_preset_may_follow_another(params: Path) -> None:
    apply_preset("ablations", params, PRESETS)
    apply_preset("mistral-7b-lora", params, PRESETS)
    chosen = load_params(params)
    losses = {"correct_turns", "with_erroneous_loss", "without_refinement_loss", "without_refinement_data"}
    assert {variant.train_on for variant in chosen.tuning.variants.values()} == losses
    assert set(chosen.evaluation.models) == set(chosen.tuning.variants) | {"base"}
    assert chosen.baseline == "expert_only"
    assert chosen.base_model.path == "mistralai/Mistral-7B-v0.3"


def test_variants_are_replaced_whole_and_sections_key_by_key(params: Path, tmp_path: Path) -> None:
    folder = write_preset(
        tmp_path,
        "mix: {chat20: {data_set: data/dataset, chat: chat.json, share: 0.2}}\n"
        "tuning: {variants: {other: {train_on: correct_turns, data_set: elsewhere}}, epochs: 1}\n"
        "evaluation: {models: [base, other]}\n",
    )
    changes = [str(change) for change in apply_preset("mine", params, folder)]
    chosen = load_params(params)
    assert list(chosen.tuning.variants) == ["other"]
    assert (chosen.tuning.epochs, chosen.tuning.method) == (1, "full")
    assert "tuning.epochs: 2 -> 1" in changes
    assert 'tuning.variants.other.data_set: "elsewhere" (new)' in changes
    assert 'tuning.variants.refinement.train_on: "correct_turns" -> removed' in changes
    assert "mix.chat20.share: 0.2 (new)" in changes
    assert not any(change.startswith("mix: ") for change in changes)


def test_what_a_comment_says_of_the_default_alone_goes_with_it_and_the_rest_stays(params: Path, tmp_path: Path) -> None:
    folder = write_preset(tmp_path, "tuning: {batch_tokens: 9000, max_length: 2048}\nevaluation: {max_new_tokens: 48}")
    apply_preset("mine", params, folder)
    assert [line for line in params.read_text().splitlines() if line not in COMMITTED.splitlines()] == [
        "  batch_tokens: 9000         # per step, about",
        "  max_length: 2048           # tokens; whole turns are dropped from the end of a longer game",
    ]


def test_a_key_that_the_file_gets_with_its_default_is_listed_too(params: Path, tmp_path: Path) -> None:
    folder = write_preset(tmp_path, "tuning: {warmup_steps: 30, epochs: 2, keep_best: true}\n")
    assert apply_preset("mine", params, folder) == [
        Change("tuning.warmup_steps", "30", "30"),
        Change("tuning.keep_best", "false", "true"),
    ]
    assert apply_preset("mine", params, folder) == []


def test_what_an_earlier_preset_left_is_listed_beside_the_values_of_the_next(params: Path) -> None:
    apply_preset("smollm2-135m-cpu", params, PRESETS)
    assert values_beside("smollm2-135m-cpu", params, PRESETS) == []
    apply_preset("qwen2.5-0.5b", params, PRESETS)
    beside = values_beside("qwen2.5-0.5b", params, PRESETS)
    assert Change("evaluation.stop_on_repeats", "null", "3") in beside
    assert Change("tuning.cpu_threads", "1", "2") in beside
    assert not {change.key for change in beside} & {"tuning.epochs", "base_model.path"}


def test_blank_lines_and_comments_behind_a_section_stay_there_whatever_its_last_value_is(
    params: Path, tmp_path: Path
) -> None:
    tail = "evaluation:\n  models:\n  - base\n  - refinement\n\n# The report.\nreport:\n  baseline: base\n"
    params.write_text(COMMITTED[: COMMITTED.index("\nevaluation:")].rstrip() + f"\n\n\n{tail}")
    add = "  references: []\n  endpoints: {}\n"
    params.write_text(params.read_text().replace("evaluation:\n", f"evaluation:\n{add}"))
    values = "{models: [base, expert_only], episodes: 3}"
    folder = write_preset(tmp_path, f"tuning: {{warmup_steps: 3}}\nevaluation: {values}\ntracking: {{experiment: a}}\n")
    apply_preset("mine", params, folder)
    written = params.read_text()
    assert written[written.index("  warmup_steps") :] == (
        f"  warmup_steps: 3\n\n\nevaluation:\n{add}  models:\n  - base\n  - expert_only\n  episodes: 3\n\n"
        "# The report.\nreport:\n  baseline: base\n\ntracking:\n  experiment: a\n"
    )


def test_what_the_preset_says_of_a_value_stands_beside_its_change(params: Path) -> None:
    changes = {change.key: change for change in apply_preset("llama-3.2-1b", params, PRESETS)}
    licence = "asks for `hf auth login` once its licence is accepted on the hub"
    assert changes["base_model.path"].note == licence
    assert str(changes["base_model.path"]).endswith(f'"meta-llama/Llama-3.2-1B-Instruct"  # {licence}')
    assert changes["tuning.warmup_steps"].note == ""
    of_variants = {change.key: change.note for change in apply_preset("ablations", params, PRESETS)}
    assert of_variants["tuning.variants.with_erroneous_loss.train_on"] == "mistaken turns are trained too"


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("tuning: {learning_speed: 1}", "unknown_key", {"key": "tuning.learning_speed"}),
        ("tunning: {epochs: 1}", "unknown_key", {"key": "tunning"}),
        ("tuning: fast", "not_a_mapping", {"key": "tuning"}),
        ("tuning: {epochs: many}", "bad_value", {"key": "tuning.epochs"}),
        ("tuning: {variants: {}}", "bad_value", {"key": "tuning.variants"}),
        ("tuning: {epochs: 1", "not_yaml", {"line": 1}),
        ("tuning: {epochs: 1, epochs: 2}", "not_yaml", {"line": 1}),
        ("- tuning", "not_a_mapping", {"key": None}),
        ("", "not_a_mapping", {"key": None}),
        ("tuning: !!python/object/apply:os.getcwd []", "not_a_mapping", {"key": "tuning"}),
    ],
)
def test_a_preset_that_does_not_fit_is_refused_in_one_sentence_and_changes_nothing(
    params: Path, tmp_path: Path, text: str, code: str, values: dict[str, object]
) -> None:
    folder = write_preset(tmp_path, text)
    with refused(code, **values) as caught:
        apply_preset("mine", params, folder)
    assert str(caught.value.values["file"]).endswith(str(folder / "mine.yaml"))
    assert params.read_text() == COMMITTED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize("name", ["llama-9", "../params", ""])
def test_an_unknown_preset_is_refused_with_the_names_there_are(params: Path, name: str) -> None:
    with refused("unknown_name", name=name, known=preset_names(PRESETS)):
        apply_preset(name, params, PRESETS)


def test_the_command_prints_what_changes(params: Path, tmp_path: Path) -> None:
    (tmp_path / "presets").symlink_to(PRESETS)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def preset(name: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "flows.cli", "preset", name]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = preset("llama-3-8b-lora")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("presets/llama-3-8b-lora.yaml changes params.yaml:\n")
    assert '  base_model.path: "tiny" -> "meta-llama/Meta-Llama-3-8B"  # asks for ' in done.stdout
    assert "already holds" in preset("llama-3-8b-lora").stdout
    following = preset("qwen2.5-0.5b").stdout
    assert "  tuning.lora" not in following.partition("are not the defaults stay")[0]
    assert "  tuning.activation_checkpointing: true (default: false)\n" in following.partition("defaults stay")[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "presets"]
    refused = preset("llama-9")
    assert refused.returncode == 1
    assert "there is no preset 'llama-9'" in refused.stderr
    assert "Traceback" not in refused.stderr


def launch_environment(config: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that `accelerate launch` would give the processes."""
    monkeypatch.chdir(ROOT)
    arguments = launch_command_parser().parse_args(["--config_file", f"configs/{config}.yaml", "-m", "flows.tuning"])
    chosen, _, _ = _validate_launch_command(arguments)
    return prepare_multi_gpu_env(chosen)


def test_every_configuration_is_loaded_by_accelerate_and_leaves_the_precision_to_params() -> None:
    kinds = {}
    for file in sorted((ROOT / "configs").glob("*.yaml")):
        loaded = load_config_from_file(str(file))
        kinds[file.stem] = loaded.distributed_type.value
        assert loaded.mixed_precision == "no"
        assert loaded.num_processes > 1
        assert f"accelerate launch --config_file configs/{file.name}" in file.read_text()
    deepspeed = {"deepspeed-zero2": "DEEPSPEED", "deepspeed-zero3": "DEEPSPEED"}
    assert kinds == {"ddp": "MULTI_GPU", "fsdp": "FSDP"} | deepspeed


def test_fsdp_is_version_2_with_gathered_weights_and_wraps_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in launch_environment("fsdp", monkeypatch).items():
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.cpu_ram_efficient_loading
    assert not plugin.activation_checkpointing
    assert plugin.auto_wrap_policy is not None


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_takes_accumulation_and_clipping_from_the_trainer(
    stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = yaml.safe_load((ROOT / f"configs/deepspeed-zero{stage}.yaml").read_text())["deepspeed_config"]
    for field in ("gradient_accumulation_steps", "gradient_clipping"):
        monkeypatch.setenv(f"ACCELERATE_{field.upper()}", given[field])
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(given["zero_stage"]))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", str(given.get("zero3_save_16bit_model", False)))
    config = DeepSpeedPlugin().deepspeed_config
    assert config["gradient_accumulation_steps"] == config["gradient_clipping"] == "auto"
    assert config["zero_optimization"]["stage"] == stage
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is (stage == 3)
