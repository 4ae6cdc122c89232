"""Loading params.yaml: addresses hold no keys, and no error repeats one."""

from pathlib import Path

import pytest

from agentrefine.params import Params, load_params
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT

PARAMS = (ROOT / "params.yaml").read_text()
MODELS = PARAMS[PARAMS.index("models: ") : PARAMS.index("\n  endpoints: ")]
TEACHER = ("base_url: offline ", "base_url: {address} ")
ENDPOINT = ("endpoints: {{}}", 'endpoints: {{rival: {{base_url: "{address}", model: m, api_key_env: KEY}}}}')


def load(folder: Path, old: str, new: str) -> Params:
    assert old in PARAMS
    file = folder / "params.yaml"
    file.write_text(PARAMS.replace(old, new, 1))
    return load_params(file)


@pytest.mark.parametrize("address", ["https://api.openai.com/v1", "http://127.0.0.1:8000/v1", "http://[::1]:8000/v1"])
def test_plain_addresses_are_taken(tmp_path: Path, address: str) -> None:
    assert load(tmp_path, TEACHER[0], TEACHER[1].format(address=address)).teacher.base_url == address
    old, new = (text.format(address=address) for text in ENDPOINT)
    assert load(tmp_path, old, new).evaluation.endpoints["rival"].base_url == address


@pytest.mark.parametrize(
    "address",
    [
        "http://user:SECRET@host/v1",
        "https://SECRET@host:8000/v1",
        "https://host/v1?key=SECRET",
        "user:SECRET@host/v1",
        "http://user:SECRET@[host/v1",
        "http://user:SECRET@h\u2100st/v1",
        "http://user:SECRET@/v1",
        "ftp://user:SECRET@host/v1",
    ],
)
@pytest.mark.parametrize(
    ("change", "key"), [(TEACHER, "teacher.base_url"), (ENDPOINT, "evaluation.endpoints.rival.base_url")]
)
def test_an_address_with_a_key_in_it_is_refused_without_repeating_it(
    tmp_path: Path, change: tuple[str, str], key: str, address: str
) -> None:
    old, new = (text.format(address=address) for text in change)
    with refused("bad_value", key=key) as caught:
        load(tmp_path, old, new)
    assert "SECRET" not in f"{caught.value} {caught.value.values}"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:SECRET@host/mlflow",
        "postgresql://me@host/mlflow?password=SECRET",
        "https://me:SECRET@host",
        "https://SECRET@host",
        "https://host/path?token=SECRET",
        "HTTPS://host?SECRET",
        "http://me:SECRET@[host",
    ],
)
def test_a_tracking_store_with_a_secret_is_refused_without_repeating_it_and_the_sentence_says_where_it_belongs(
    tmp_path: Path, address: str
) -> None:
    with refused("bad_value", key="tracking.uri") as caught:
        load(tmp_path, "seed: 7 ", f"tracking: {{uri: '{address}'}}\nseed: 7 ")
    assert "SECRET" not in f"{caught.value} {caught.value.values}"
    assert "MLFLOW_TRACKING_TOKEN" in str(caught.value)


@pytest.mark.parametrize(
    "address", ["postgresql://me@host/mlflow?sslmode=require", "https://host:5000/mlflow", "sqlite:///mlflow.db"]
)
def test_a_tracking_store_without_a_secret_in_its_address_is_taken_as_it_is(tmp_path: Path, address: str) -> None:
    assert load(tmp_path, "seed: 7 ", f"tracking: {{uri: '{address}'}}\nseed: 7 ").tracking.uri == address


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("endpoints: {}", "endpoints: {a: {base_url: 'http://user:SECRET@host/v1', model: m}}", "bad_value"),
        ("endpoints: {}", "endpoints: {a: 'http://user:SECRET@host/v1'}", "bad_value"),
        (
            "endpoints: {}",
            "endpoints: {a: {base_url: ['http://user:SECRET@host/v1'], model: m, api_key_env: K}}",
            "bad_value",
        ),
        ("  model: offline-teacher", "  model: offline-teacher\n  api_key: SECRET", "unknown_key"),
        ("base_url: offline ", "base_url: 'http://user:SECRET@host/v1 ", "not_yaml"),
        ("base_url: offline ", "base_url: http://user:SECRET@host/v1: ", "not_yaml"),
        (MODELS, "models: [expert_only, refinement]", "bad_value"),
    ],
    ids=["missing key", "no mapping", "wrong type", "unknown key", "open quote", "two colons", "between sections"],
)
def test_no_other_error_repeats_a_key(tmp_path: Path, old: str, new: str, code: str) -> None:
    with refused(code) as caught:
        load(tmp_path, old, new)
    assert "SECRET" not in f"{caught.value} {caught.value.values}"
    assert len(str(caught.value)) < 500


def test_an_error_names_the_key_or_the_line(tmp_path: Path) -> None:
    with refused("bad_value", key="verification.max_turns", rule="int_type"):
        load(tmp_path, "max_turns: 60", "max_turns: many")
    line = PARAMS[: PARAMS.index("epochs:")].count("\n") + 1
    with refused("not_yaml", file=tmp_path / "params.yaml", line=line):
        load(tmp_path, "epochs: 2", "epochs: 2: 4")


def test_a_section_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    line = len(PARAMS.splitlines()) + 1
    with refused("not_yaml", file=tmp_path / "params.yaml", line=line):
        load(tmp_path, PARAMS, f"{PARAMS}tuning: {{epochs: 1}}\n")


@pytest.mark.parametrize(
    ("old", "new", "key", "meant"),
    [
        ("  limit: ", "  limti: ", "personas.limti", "limit"),
        ("tuning:\n", "tunning:\n", "tunning", "tuning"),
        ("seed: 7", "seed: 7\nfruit: 1", "fruit", None),
    ],
)
def test_a_misspelt_key_is_named_and_the_right_one_beside_it(
    tmp_path: Path, old: str, new: str, key: str, meant: str | None
) -> None:
    with refused("unknown_key", file=tmp_path / "params.yaml", key=key, meant=meant):
        load(tmp_path, old, new)


def test_a_rule_over_several_keys_names_the_one_to_correct(tmp_path: Path) -> None:
    with refused("bad_value", file=tmp_path / "params.yaml", key="evaluation.models", missing="base"):
        load(tmp_path, MODELS, "models: [refinement]")


def test_a_key_in_place_of_its_variables_name_is_refused_and_not_shown(tmp_path):
    with refused("bad_value", key="teacher.api_key_env") as caught:
        load(tmp_path, "api_key_env: OPENAI_API_KEY", "api_key_env: sk-very-secret")
    assert "secret" not in f"{caught.value} {caught.value.values}"


@pytest.mark.parametrize(
    ("old", "new", "key", "values"),
    [
        ("max_cost: ", "pilot: {personas: -1} ", "teacher.pilot.personas", {"rule": "greater_than_equal"}),
        ("max_cost: ", "pilot: {on_low: never} ", "teacher.pilot.on_low", {"rule": "literal_error"}),
        ("max_cost: ", "max_cost: 0 ", "teacher.max_cost", {"rule": "greater_than"}),
        ("max_cost: ", "processes: 17 ", "teacher.processes", {"most": 16}),
        ("max_cost: ", "requests_per_minute: 0 ", "teacher.requests_per_minute", {"rule": "greater_than"}),
        (
            "repair: {temperature: 1.0,",
            "repair: {base_url: 'https://elsewhere/v1', temperature: 1.0,",
            "teacher.repair",
            {"missing": "api_key_env"},
        ),
    ],
)
def test_settings_of_the_teacher_that_cannot_work_are_refused(tmp_path, old, new, key, values):
    with refused("bad_value", key=key, **values):
        load(tmp_path, old, new)


def test_a_role_takes_from_the_teacher_what_it_does_not_name_itself(tmp_path):
    new = "repair: {base_url: 'https://elsewhere/v1', api_key_env: OTHER, model: big, temperature: 0.2,"
    teacher = load(tmp_path, "repair: {temperature: 1.0,", new).teacher
    script, repair = teacher.role("script"), teacher.role("repair")
    assert (script.base_url, script.model, script.api_key_env) == ("offline", "offline-teacher", "OPENAI_API_KEY")
    assert (repair.base_url, repair.model, repair.api_key_env) == ("https://elsewhere/v1", "big", "OTHER")
    assert (repair.temperature, repair.max_tokens) == (0.2, 8192)
    assert repair.structured_output == teacher.structured_output
    assert teacher.uses_simulated_teacher


def test_a_template_beside_the_tiny_model_is_refused_because_it_would_not_be_used(tmp_path: Path) -> None:
    with refused("bad_value", key="base_model.chat_template", value="mine.jinja"):
        load(tmp_path, "chat_template: ", "chat_template: mine.jinja ")


@pytest.mark.parametrize(
    ("old", "new", "values"),
    [
        (MODELS, "models: [base, refinement]", {"key": "report.baseline", "name": "expert_only"}),
        ("  - chance", "  - dice", {"key": "evaluation.references.0", "rule": "literal_error"}),
        (MODELS, "models: [chance, base, expert_only, refinement]", {"key": "evaluation.models", "name": "chance"}),
        ("    expert_only: {train_on", "    chance: {train_on", {"key": "tuning.variants", "name": "chance"}),
        (
            "endpoints: {}",
            "endpoints: {chance: {base_url: 'http://h/v1', model: m, api_key_env: K}}",
            {"key": "evaluation.endpoints.chance", "name": "chance"},
        ),
    ],
)
def test_a_comparison_with_what_is_not_evaluated_is_refused(
    tmp_path: Path, old: str, new: str, values: dict[str, str]
) -> None:
    with refused("bad_value", **values):
        load(tmp_path, old, new)


def test_chance_can_be_the_baseline(tmp_path: Path) -> None:
    assert load(tmp_path, "baseline: expert_only", "baseline: chance").baseline == "chance"


@pytest.mark.parametrize(("name", "meant"), [("expert_onl", "expert_only"), ("bse", "base"), ("gpt-4o", None)])
def test_a_baseline_that_is_no_model_is_refused_with_the_names_and_the_closest_in_one_sentence(
    tmp_path: Path, name: str, meant: str | None
) -> None:
    known = ["chance", "base", "expert_only", "refinement"]
    with refused("unknown_name", key="report.baseline", name=name, meant=meant, known=known) as caught:
        load(tmp_path, "baseline: expert_only", f"baseline: {name}")
    assert str(caught.value).count(".yaml") == 1
    assert ".." not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "baseline"),
    [
        ({}, "expert_only"),
        ({"baseline: expert_only": "baseline: base"}, "base"),
        # No variant has the name: the one that is tuned without mistakes, else the base.
        ({"    expert_only: {train_on": "    plain: {train_on", MODELS: "models: [base, plain, refinement]"}, "plain"),
        (
            {
                "    expert_only: {train_on: without_refinement_data": "    other: {train_on: with_erroneous_loss",
                MODELS: "models: [base, other, refinement]",
            },
            "base",
        ),
        # Nothing else is tuned.
        ({MODELS: "models: [base, expert_only]"}, "base"),
    ],
)
def test_the_baseline_is_the_model_that_is_named_or_what_stands_for_it(
    tmp_path: Path, changes: dict[str, str], baseline: str
) -> None:
    text = PARAMS
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "params.yaml").write_text(text)
    assert load_params(tmp_path / "params.yaml").baseline == baseline
