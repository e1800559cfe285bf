"""The OpenAPI document of a service: spectree's, with additions that spectree cannot know."""

from typing import Any, Literal

import falcon
from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json, to_json
from spectree import Response, SpecTree, Tag

from runtime.process.errors import FieldError, Refused
from runtime.process.fields import MAX_ID
from runtime.web.once import HEADER, KEY
from runtime.web.problem import CONTENT_TYPE, Problem, document, title
from runtime.web.shell import PROBES

SCHEMAS = "#/components/schemas/"
ID = {"type": "integer", "minimum": 1, "maximum": MAX_ID}
TEXT = {"type": "string"}
KEY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "description": "The same request with the same key gets the first answer again.",
    "schema": {"type": "string", "pattern": f"^(?:{KEY.pattern})$"},
}
KNOWN_PARAMETER = {
    "name": "If-None-Match",
    "in": "header",
    "description": "ETags of answers that the client has.",
    "schema": TEXT,
}
ETAG = {"description": "What to send as If-None-Match.", "schema": TEXT, "required": True}
LINK = {"description": "Where the next page is, if there is more.", "schema": TEXT}
LOCATION = {"description": "Where the new object is, if it has a path.", "schema": TEXT}


def tag(name: str, about: str) -> Tag:
    """A group of operations in the document; services import no spectree (see `runtime`)."""
    return Tag(name, about)


HEALTH = tag("health", "The state of the process, for supervisors and Prometheus.")


def like(**example: Any) -> ConfigDict:
    """The ``model_config`` of a model that the document shows by an example."""
    return ConfigDict(json_schema_extra={"example": example})


class Alive(BaseModel):
    """The process is up."""

    model_config = like(status="alive")

    status: Literal["alive"]


class Readiness(BaseModel):
    """Whether it is ready, and what is waiting; without its database it knows less."""

    model_config = like(
        status="ready",
        database="up",
        broker="up",
        outbox_waiting=0,
        inbox_behind={"orders": 0},
        dead=0,
    )

    status: Literal["ready", "unready"]
    database: Literal["up", "down"]
    problem: str = ""
    broker: Literal["up", "down", "unknown"] = "unknown"
    outbox_waiting: int = 0
    inbox_behind: dict[str, int | None] = {}
    dead: int = 0
    standby: bool = False


# /metrics is text.
PROBE_MODELS: dict[str, type[BaseModel]] = {"/livez": Alive, "/readyz": Readiness}


class Answers(Response):
    """spectree's answers, documented under their media types; those without a model are text."""

    def generate_spec(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        """The answers by status."""
        spec = super().generate_spec(*arguments, **named)
        for code, answer in spec.items():
            answer["description"] = title(int(code))
            answer.setdefault("content", {falcon.MEDIA_TEXT: {"schema": TEXT}})
            if code >= "400":
                answer["content"] = {CONTENT_TYPE: answer["content"][falcon.MEDIA_JSON]}
        return spec


def answers(status: int, model: Any, *problems: int) -> Answers:
    """The documented answers of a responder: its success, and its problems."""
    codes = {f"HTTP_{code}": Problem for code in (*problems, 503)}
    return Answers(**{f"HTTP_{status}": model}, **codes)


class Document(SpecTree):
    """spectree's document, with headers, examples, the ids in paths, and the probes."""

    def _generate_spec(self) -> dict[str, Any]:
        spec = super()._generate_spec()
        schemas = spec["components"]["schemas"]
        for model in PROBE_MODELS.values():
            schemas[model.__name__] = model.model_json_schema()
        for path, (summary, media_type, codes) in PROBES.items():
            spec["paths"][path] = {"get": _probe(path, summary, media_type, codes)}
        for path, operations in spec["paths"].items():
            for method, operation in operations.items():
                if path not in PROBES:
                    _complete(method, operation)
                _show_examples(path, operation, schemas)
        spec["tags"].append(HEALTH.to_dict(exclude_none=True))
        used = to_json(spec["paths"] | schemas).decode()
        spec["components"]["schemas"] = {
            name: schema for name, schema in schemas.items() if f'"{SCHEMAS}{name}"' in used
        }
        return spec


def _probe(path: str, summary: str, media_type: str, codes: list[int]) -> dict[str, Any]:
    model = PROBE_MODELS.get(path)
    schema = {"$ref": SCHEMAS + model.__name__} if model else TEXT
    return {
        "summary": summary,
        "description": "It answers without the database, too.",
        "operationId": f"get{path.strip('/').title()}",
        "tags": [HEALTH.name],
        "parameters": [],
        "responses": {
            str(code): {"description": title(code), "content": {media_type: {"schema": schema}}}
            for code in codes
        },
    }


def _complete(method: str, operation: dict[str, Any]) -> None:
    """Add the headers that all operations of this method have, and mend the parameters."""
    takes, responses = operation["parameters"], operation["responses"]
    names = {parameter["name"] for parameter in takes}
    for parameter in takes:
        if parameter["in"] == "path":
            parameter["description"] = "Its id."
            if "format" not in parameter["schema"]:
                parameter["schema"] = ID
        else:
            parameter["schema"] = _without_null(parameter["schema"])
    if method == "get":
        takes.append(KNOWN_PARAMETER)
        responses["200"]["headers"] = {"ETag": ETAG} | ({"Link": LINK} if "limit" in names else {})
        responses["304"] = {"description": title(304), "headers": {"ETag": ETAG}}
    else:
        takes.append(KEY_PARAMETER)
    if "201" in responses:
        responses["201"]["headers"] = {"Location": LOCATION}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an optional query parameter, without null."""
    (kind,) = (each for each in schema.get("anyOf", [schema]) if each != {"type": "null"})
    return {name: value for name, value in kind.items() if name not in ("description", "title")}


def _show_examples(path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Add an example to each content of a request and its answers."""

    def example(schema: dict[str, Any]) -> Any:
        match schema:
            case {"$ref": reference}:
                return example(schemas[reference.removeprefix(SCHEMAS)])
            case {"type": "array", "items": one}:
                return [example(one)]
        return schema.get("example", "ok")

    asked = operation.get("requestBody", {}).get("content", {})
    for content in asked.values():
        content["example"] = example(content["schema"])
    wrong = [name for content in asked.values() for name in content["example"]]
    wrong += [parameter["name"] for parameter in operation["parameters"]]
    for code, answer in operation["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            if media_type == CONTENT_TYPE:
                refusal = Refused(*[FieldError(wrong[0], "Field required")] * (code == "422"))
                problem = document(int(code), str(refusal), path, refusal.errors)
                content["example"] = from_json(problem)
            else:
                content["example"] = example(content["schema"])
