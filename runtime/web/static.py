"""The page of a service and its documentation: files and documents that seldom change."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import falcon
from pydantic_core import to_json

from runtime import ROOT
from runtime.web.caching import etag_of, send

POLICY = "Content-Security-Policy"  # W3C CSP 3
NOT_FRAMED = "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
PAGE_POLICY = f"default-src 'self'; {NOT_FRAMED}"
DOCS_POLICY = (  # Swagger UI styles its elements one by one, and its icons are in its style sheet
    f"default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; {NOT_FRAMED}"
)
SHARED = ROOT / "runtime" / "web" / "static"  # the files that all pages share
SWAGGER = {"/docs/swagger-ui.js": "swagger_bundle.js", "/docs/swagger-ui.css": "swagger_style.css"}
REFERENCE = re.compile(rb"/(?:shared|static)/[\w.-]+")  # from one file of a page to another


class Document:
    """A resource that seldom changes; each request makes it, and nothing keeps it."""

    def __init__(
        self, content_type: str, make: Callable[[], bytes], policy: str = PAGE_POLICY
    ) -> None:
        self._content_type = content_type
        self._make = make
        self._policy = policy

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with it, or with 304 if the client has it."""
        content = self._make()
        resp.content_type = self._content_type
        resp.set_header(POLICY, self._policy)
        send(req, resp, etag_of(content), lambda: content)


def add_pages(app: "falcon.App[Any, Any]", folder: Path, facts: Mapping[str, Any]) -> None:
    """Add the page whose files are in a folder, and that of the documentation.

    ``/shared`` has the files that all pages share, and the ``facts`` that their scripts import.
    """
    known = {"/shared/facts.js": b"export default %b;\n" % to_json({**facts})}
    files = _linked(known | _read_files({"/shared": SHARED, "/static": folder}))
    types = app.resp_options.static_media_types
    for path in files:
        media_type = types.get(Path(path).suffix, "application/octet-stream")
        app.add_route(path, Document(media_type, partial(files.__getitem__, path)))
    for path, file in {"/": "/static/index.html", "/docs": "/shared/docs.html"}.items():
        policy = DOCS_POLICY if path == "/docs" else PAGE_POLICY
        app.add_route(path, Document(falcon.MEDIA_HTML, partial(files.__getitem__, file), policy))
    swagger = Path(str(distribution("offapi").locate_file("offapi")))
    for path, name in SWAGGER.items():
        app.add_route(path, Document(types[Path(path).suffix], (swagger / name).read_bytes))


def _read_files(folders: dict[str, Path]) -> dict[str, bytes]:
    """The files of a page by path."""
    return {
        f"{prefix}/{file.name}": file.read_bytes()
        for prefix, folder in folders.items()
        for file in folder.iterdir()
        if file.is_file()
    }


def _linked(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files, with a hash of all of them in each reference from one to another.

    So a new page never runs an old script that a browser has kept.
    """
    version = etag_of(b"".join(files[path] for path in sorted(files)))[:12].encode()
    link = partial(REFERENCE.sub, rb"\g<0>?v=" + version)
    return {path: link(content) for path, content in files.items()}
