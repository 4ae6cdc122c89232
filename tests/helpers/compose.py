"""The services of compose.yaml as processes of this machine, with their commands, variables and health checks.

Only addresses change: a service is on 127.0.0.1, on a free port. PostgreSQL runs as a user of its own, because it
refuses to run as root.
"""

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.paths import ROOT

HOST = "127.0.0.1"
GRPC_OFFSET = 10_000
"""SeaweedFS takes for each port a second one that lies so much higher."""
PORTS = {"prefect": 4200, "mlflow": 5000, "postgres": 5432, "s3": 8333, "worker": 8080}
"""Where the services listen in compose.yaml."""
SECONDS_TO_START = 400


@cache
def compose() -> dict[str, Any]:
    """compose.yaml."""
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8")))


def program(name: str) -> str | None:
    """The path of a program: beside this Python, on the PATH, or of PostgreSQL where Debian keeps it."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([beside, *map(str, debian)]))


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """The text with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced, as Docker Compose does it."""

    def value(found: re.Match[str]) -> str:
        name, default = found.group("name"), found.group("default")
        return variables.get(name) or default or variables[name]

    return re.sub(r"\$\{(?P<name>\w+)(?::(?:-(?P<default>[^}]*)|\?[^}]*))?\}", value, text)


class Stack:
    """Running services. `variables` is what `.env` holds; logs and data lie in `folder`."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.variables = variables
        self.ports = {name: _free_port() for name in PORTS}
        self._running: list[subprocess.Popen[bytes]] = []
        self._data = Path(tempfile.mkdtemp(prefix="stack-"))  # a path that PostgreSQL's user can enter

    def log(self, service: str) -> Path:
        """A service's log."""
        return self.folder / f"{service}.log"

    def environment(self, service: str) -> dict[str, str]:
        """What compose.yaml sets for a service; a key without a value is passed on from `variables`."""
        values = compose()["services"][service]["environment"]
        given = {name: self.variables.get(name) if value is None else str(value) for name, value in values.items()}
        return {name: self._here(value) for name, value in given.items() if value is not None}

    def command(self, service: str) -> list[str]:
        """A service's command."""
        words = [self._here(word) for word in compose()["services"][service]["command"]]
        return [{"0.0.0.0": HOST, str(PORTS[service]): str(self.ports[service])}.get(word, word) for word in words]

    def start(self, service: str, *words: str, folder: Path | None = None, **more: str) -> None:
        """Start a service with further words and variables, and wait until its health check succeeds."""
        command = [*self.command(service), *words]
        environment = {**os.environ, **self.environment(service), **more}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with self.log(service).open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder or self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self._running.append(process)
        self._wait(service, process, self.health_check(service))

    def start_s3(self) -> None:
        """Start the S3-compatible store."""
        ports = [f"-{part}.port={_free_port()}" for part in ("master", "volume", "filer", "admin")]
        command = ["weed", *self.command("s3"), f"-ip.bind={HOST}", f"-s3.port={self.ports['s3']}", *ports]
        command = [word.replace("=/data", f"={self._data / 's3'}") for word in command]
        (self._data / "s3").mkdir()
        with self.log("s3").open("wb") as log:
            process = subprocess.Popen(
                [str(program("weed")), *command[1:]],
                env={**os.environ, **self.environment("s3")}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._running.append(process)
        read = f"import urllib.request; urllib.request.urlopen('http://{HOST}:{self.ports['s3']}/healthz', timeout=5)"
        self._wait("s3", process, [sys.executable, "-c", read])

    def start_postgres(self) -> None:
        """Start PostgreSQL with the role, the databases and the password of compose.yaml."""
        given = self.environment("postgres")
        role, database, password = (given[f"POSTGRES_{name}"] for name in ("USER", "DB", "PASSWORD"))
        data = self._data / "postgres"
        data.mkdir()
        (self._data / "password").write_text(password)
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            for path in (self._data, data, self._data / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        initdb = [str(program("initdb")), "--pgdata", str(data), "--username", role, "--auth", "scram-sha-256"]
        subprocess.run(
            [*initdb, "--pwfile", str(self._data / "password")], check=True, capture_output=True, cwd=data, **user
        )
        options = ["-D", str(data), "-h", HOST, "-p", str(self.ports["postgres"]), "-k", str(data)]
        with self.log("postgres").open("wb") as log:
            process = subprocess.Popen(
                [str(program("postgres")), *options], cwd=data, stdout=log, stderr=log, start_new_session=True, **user
            )
        self._running.append(process)
        ready = [str(program("pg_isready")), "--host", HOST, "--port", str(self.ports["postgres"])]
        self._wait("postgres", process, ready)
        self.sql("postgres", f"CREATE DATABASE {database}")
        self.sql("postgres", compose()["configs"]["databases"]["content"])

    def sql(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """Execute a statement in a database, and return its rows."""
        import psycopg

        given = self.environment("postgres")
        with psycopg.connect(
            host=HOST, port=self.ports["postgres"], dbname=database,
            user=given["POSTGRES_USER"], password=given["POSTGRES_PASSWORD"], autocommit=True,
        ) as connection:  # fmt: skip
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def dump(self, database: str) -> bytes:
        """Everything that a database holds, as text."""
        given = self.environment("postgres")
        place = ["--host", HOST, "--port", str(self.ports["postgres"]), "--username", given["POSTGRES_USER"]]
        environment = {**os.environ, "PGPASSWORD": given["POSTGRES_PASSWORD"]}
        command = [str(program("pg_dump")), *place, database]
        return subprocess.run(command, env=environment, check=True, capture_output=True).stdout

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Every object of a bucket, by its key."""
        import boto3

        given = self.environment("s3")
        client = boto3.client(
            "s3", endpoint_url=f"http://{HOST}:{self.ports['s3']}", region_name="us-east-1",
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"], aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def health_check(self, service: str) -> list[str]:
        """The command of a service's health check."""
        _, *words = compose()["services"][service]["healthcheck"]["test"]
        written, here = f"127.0.0.1:{PORTS[service]}", f"127.0.0.1:{self.ports[service]}"
        return [sys.executable if word == "python" else word.replace(written, here) for word in words]

    def stop(self) -> None:
        """End all services, the last one first, and remove their data."""
        for process in reversed(self._running):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._data)

    def _here(self, text: str) -> str:
        """The text for this machine: variables replaced, and `service:port` behind `//` or `@`."""
        names = "|".join(PORTS)
        return re.sub(
            rf"(?<=[/@])({names}):(\d+)",
            lambda found: f"{HOST}:{self.ports[found[1]]}",
            interpolated(text, self.variables),
        )

    def _wait(self, service: str, process: "subprocess.Popen[bytes]", check: list[str]) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while subprocess.run(check, capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{service} did not start: {self.log(service).read_text()[-3000:]}")
            time.sleep(0.5)


def _free_port() -> int:
    """A free port below which SeaweedFS finds its second one free, too."""
    while True:
        with socket.create_server((HOST, 0)) as drawn:
            port = drawn.getsockname()[1] - GRPC_OFFSET
        try:
            with socket.create_server((HOST, port)), socket.create_server((HOST, port + GRPC_OFFSET)):
                return int(port)
        except OSError:
            continue
