"""What the sections of params.yaml share: the form of a section, comments, kinds of values, addresses."""

from inspect import isclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from agentrefine.errors import UserError
from agentrefine.files import user_path

ValueT = TypeVar("ValueT")

Share = Annotated[float, Field(ge=0, le=1)]
Severity = Literal["critical", "warning"]
"""What a broken threshold does: critical stops the pipeline, warning is printed (Great Expectations' names)."""

KeyName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of an environment variable."""


def misfit(sentence: str, **values: object) -> ValueError:
    """What a validator raises, with the values that the `UserError` about params.yaml is to have.

    A `key` among them is dotted and stands in place of the section that was being validated.
    """
    error = ValueError(sentence)
    error.__cause__ = UserError("bad_value", sentence, **values)
    return error


def _with_home(given: str) -> str:
    if not given.startswith("~"):
        return given
    try:
        return str(user_path(given))
    except UserError as error:
        raise ValueError(str(error)) from error


def _without_home(given: str) -> str:
    if given.startswith("~"):
        raise ValueError("DVC looks for this file too, and it does not know `~`; write the whole path")
    return PurePosixPath(given).as_posix()


UserPath = Annotated[str, AfterValidator(_with_home)]
"""A path of a user's file or folder, in which `~` is the home folder."""

TrackedPath = Annotated[str, AfterValidator(_without_home)]
"""A path that dvc.yaml names too: as it stands in params.yaml, but without a slash at its end."""


class Section(BaseModel):
    """A part of params.yaml. Every key has a default; a field's description is the key's comment."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _given_keys_join_the_defaults(cls, values: object) -> object:
        """A section that is given in part keeps its own defaults, which may differ from those of its class."""
        if not isinstance(values, dict):
            return values
        parts = {
            name: {**field.default.model_dump(), **values[name]}
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Section) and isinstance(values.get(name), dict)
        }
        return {**values, **parts}

    @classmethod
    def parts(cls) -> "dict[str, type[Section]]":
        """The fields that are sections themselves, by name."""
        return {
            name: field.annotation
            for name, field in cls.model_fields.items()
            if isclass(field.annotation) and issubclass(field.annotation, Section)
        }


def param(default: ValueT, comment: str, of_default: str = "") -> ValueT:
    """A key of a section: its default and its comment, which `agentrefine params` prints.

    `of_default` is the rest of the comment, which is true of the default only.
    """
    return Field(default, description=comment, json_schema_extra={_OF_DEFAULT: of_default} if of_default else None)


_OF_DEFAULT = "of_default"


def note_of_default(field: FieldInfo) -> str:
    """What a key's comment says of the default only; empty where it says nothing."""
    extra = field.json_schema_extra
    return str(extra.get(_OF_DEFAULT, "")) if isinstance(extra, dict) else ""


COMMENT_COLUMN = 27
"""Where comments begin, in characters from the left; further right behind a long value."""


def commented(section: Section, indent: str = "") -> str:
    """Every parameter of a section as YAML for a reader, each with its comment."""
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        head, comment, body = f"{indent}{name}:", field.description, []
        if (note := note_of_default(field)) and value == field.default:
            comment = f"{comment}; {note}"
        if isinstance(value, Section) and any(inner.description for inner in type(value).model_fields.values()):
            body = [commented(value, f"{indent}  ")]
            comment = comment or (type(value).__doc__ or "").splitlines()[0]
        elif isinstance(value, dict) and value:
            body = [f"{indent}  {key}: {_inline(item)}" for key, item in value.items()]
        else:
            head += f" {_inline(value)}"
        before = [""] if body and not indent else []
        lines += [*before, f"{head:<{COMMENT_COLUMN}}  # {comment}" if comment else head, *body]
    return "\n".join(lines)


def _inline(value: Any) -> str:  # noqa: ANN401 (any value of a parameter)
    plain = value.model_dump(mode="json") if isinstance(value, Section) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()


RESERVED_KEYS = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "n", "stream", "response_format"}
)
"""Keys of a request's body that decide what is asked and what it costs."""


def _extra_keys(body: dict[str, Any]) -> dict[str, Any]:
    """Refuse an `extra_body` that changes what is asked or what it costs."""
    reserved = sorted(RESERVED_KEYS & body.keys())
    if reserved:
        sentence = f"extra_body must not hold {reserved[0]}, which has a place of its own in params.yaml"
        raise misfit(sentence, name=reserved[0])
    return body


ExtraBody = Annotated[dict[str, Any], AfterValidator(_extra_keys)]
"""Further keys of a request's body."""


def bare_address(address: str) -> str:
    """Refuse an address that holds a key: it would appear in errors and be kept in the journal and in dvc.lock."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # its own message would repeat the address
        usable = False
    if not usable:
        raise ValueError("this is no address; write one such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.query:
        raise ValueError(
            "an address must hold no user, password or query; put the key into the environment variable that "
            "api_key_env names, and leave scheme, host, port and path"
        )
    return address


def without_password(uri: str) -> str:
    """Refuse a store's address with a secret in it: it would be kept in params.resolved.yaml and in dvc.lock.

    A server's address holds no user and no query either: tokens are written there.
    """
    try:
        parts = urlsplit(uri)
        held = parts.password is not None or "password=" in parts.query
        if parts.scheme in ("http", "https"):
            held = parts.username is not None or bool(parts.query)
    except ValueError:  # its own message would repeat the address
        held = True
    if held:
        raise ValueError(
            "an address must hold no password, and that of a server no user and no query; leave them out and set the "
            "environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
            "for a server, and PGPASSWORD for a PostgreSQL database"
        )
    return uri


StoreAddress = Annotated[str, AfterValidator(without_password)]
"""Where a tracking store is, without a secret in it."""

Address = Annotated[str, AfterValidator(bare_address)]
"""An address of an endpoint, without a key in it."""
