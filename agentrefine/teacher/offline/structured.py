"""Structured outputs: what `response_format` may ask for, and answers in the form of a JSON schema."""

import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

TURNS = "turns"
"""The key that holds a game where a schema wants an object."""


class JsonSchema(BaseModel):
    """The schema of an answer, with its name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    definition: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _root_is_an_object(self) -> Self:
        if self.definition.get("type") != "object" or not isinstance(self.definition.get("properties"), dict):
            raise ValueError("the schema's root must be of type object with properties")
        return self

    @property
    def properties(self) -> dict[str, Any]:
        """The schemas of the object's keys."""
        properties: dict[str, Any] = self.definition["properties"]
        return properties


class ResponseFormat(BaseModel):
    """The form that an answer is to have."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _a_schema_is_given_if_wanted(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema must be given with type json_schema, and with no other type")
        return self


def constants(form: ResponseFormat) -> str | None:
    """The only answer that a schema of single values allows, as JSON; None where there is a choice."""
    if form.json_schema is None or not form.json_schema.properties:
        return None
    answer: dict[str, Any] = {}
    for name, schema in form.json_schema.properties.items():
        values = _values(schema)
        if len(values) != 1:
            return None
        answer[name] = values[0]
    return json.dumps(answer, ensure_ascii=False)


def formed(text: str, form: ResponseFormat) -> str:
    """An answer without Markdown; a list of turns becomes an object where the schema has `turns`.

    What is wrong in a bad answer stays wrong: a list that is cut off is an object that is cut off.
    """
    bare = text.removeprefix("```json\n").removesuffix("\n```")
    if form.json_schema is None or TURNS not in form.json_schema.properties or not bare.startswith("["):
        return bare
    return f'{{"{TURNS}": {bare}' + ("}" if _is_json(bare) else "")


def _values(schema: object) -> list[Any]:
    """The values that a schema lists; none where it describes them in another way."""
    if not isinstance(schema, dict):
        return []
    if "const" in schema:
        return [schema["const"]]
    listed = schema.get("enum")
    return listed if isinstance(listed, list) else []


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
