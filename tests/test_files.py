"""Writing files: whole or not at all, and a full disk is said in one sentence."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from agentrefine.files import atomic_folder, parse_yaml, read_jsonl, read_records, read_text, read_yaml, user_path
from agentrefine.llm.spending import load_prices
from agentrefine.params import load_params, parse_params
from tests.helpers.errors import refused
from tests.helpers.small_disk import small_disk_at


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    with small_disk_at(tmp_path / "disk", "256k"):
        yield tmp_path / "disk"


def test_weights_that_do_not_fit_on_the_disk_leave_nothing_behind(small_disk: Path) -> None:
    with refused("disk_full", file=small_disk / "model"), atomic_folder(small_disk / "model") as folder:
        save_file({"weight": torch.zeros(1_000_000)}, str(folder / "model.safetensors"))
    assert not list(small_disk.iterdir())


def test_a_folder_takes_its_place_only_when_it_is_complete(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("old")
    with refused("not_writable", file=tmp_path / "model"), atomic_folder(tmp_path / "model") as folder:
        (folder / "b").mkdir()
        (folder / "b").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a").read_text() == "old"


class Line(BaseModel):
    """A record of a stage."""

    n: int


def test_a_text_is_the_same_with_a_byte_order_mark_and_with_other_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in ("a\nb\n", "\ufeffa\nb\n", "a\r\nb\r\n", "\ufeffa\rb\r"):
        path.write_bytes(content.encode())
        assert read_text(path, "do this") == "a\nb\n"


@pytest.mark.parametrize(
    ("content", "values", "as_records"),
    [
        ("é".encode("latin-1"), {"line": 1, "byte": "0xe9"}, "not_utf8"),
        (
            "a\nb\né".encode("latin-1"),
            {"line": 3, "byte": "0xe9"},
            "not_json",
        ),  # the first line is read before the third
        ("a".encode("utf-16"), {"encoding": "UTF-16"}, "not_utf8"),
        ("a".encode("utf-32"), {"encoding": "UTF-32"}, "not_utf8"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, content: bytes, values: dict[str, object], as_records: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with refused("not_utf8", file=path, **values):
        read_text(path, "do this")
    with refused(as_records, file=path, line=None if "encoding" in values else 1):
        list(read_records(path, "do this"))


def test_the_sentence_about_a_missing_file_or_a_folder_ends_with_what_to_do(tmp_path: Path) -> None:
    for read in (read_text, read_yaml, read_records):
        with refused("file_missing", file=tmp_path / "b") as caught:
            read(tmp_path / "b", "do this")
        assert str(caught.value).endswith("; do this.")
        with refused("is_folder", file=tmp_path) as caught:
            read(tmp_path, "do this")
        assert str(caught.value).endswith("; do this.")


def test_yaml_is_read_with_a_mark_and_an_error_does_not_quote_a_key(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("\ufeffa: [1, 2]\n", encoding="utf-8")
    assert read_yaml(path, "do this") == {"a": [1, 2]}
    with refused("not_yaml", file="x.yaml", line=2) as caught:
        parse_yaml("a: 1\nkey: sk-secret: b", "x.yaml")
    assert "secret" not in str(caught.value)


def test_values_are_read_from_lines_and_from_a_list_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": 1}\n\n \n[2]\n', encoding="utf-8")
    assert [(r.place, r.value) for r in read_records(path, "")] == [
        (f"{path}, line 1", {"a": 1}), (f"{path}, line 4", [2]),
    ]  # fmt: skip
    path.write_text('\n [{"a": 1},\n[2]]\n', encoding="utf-8")
    assert [r.place for r in read_records(path, "")] == [f"{path}, element 1", f"{path}, element 2"]
    for empty in ("", "\ufeff", "\n\n", "[]"):
        path.write_text(empty, encoding="utf-8")
        assert list(read_records(path, "")) == []
    path.write_text("[1] [2]", encoding="utf-8")
    with refused("not_json", file=path, found="[", expected=None):
        list(read_records(path, ""))


def test_a_file_of_a_stage_may_have_been_edited_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"n": 1}\n\n{"n": 2}\r\n\n', encoding="utf-8")
    assert [line.n for line in read_jsonl(path, Line)] == [1, 2]
    path.write_text('{"n": 1}\n\n{"n": "x"}\n', encoding="utf-8")
    with refused("stage_file_broken", file=path, line=3, key="n"):
        list(read_jsonl(path, Line))


def test_the_home_folder_is_read_where_a_path_may_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a") == tmp_path / "a"
    with refused("unknown_home", path="~nobody-of-that-name/a"):
        user_path("~nobody-of-that-name/a")
    text = Path("params.yaml").read_text(encoding="utf-8")
    given = parse_params(text.replace("max_cost: ", "prices: ~/p.yaml "), "p")
    assert given.teacher.prices == str(tmp_path / "p.yaml")
    (tmp_path / "p.yaml").write_text("\ufefflisted: today\nmodels: {m: {input: 1.0, output: 2.0}}\n", encoding="utf-8")
    assert load_prices(given.teacher.prices).models["m"].output == 2.0


def test_a_file_that_dvc_looks_for_too_must_not_be_named_by_the_home_folder() -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    path = load_params().personas.path
    with refused("bad_value", file="params.yaml", key="personas.path"):
        parse_params(text.replace(f"path: {path}", "path: ~/personas.jsonl"), "params.yaml")
