"""The shop's checkout in Flask under waitress, with a session for each request."""
# Without these libraries, their names have no types.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator"

import os
from typing import Any

import waitress
from flask import Flask, request
from pydantic import ValidationError
from sqlalchemy.orm import Session

from bench.contestants.sqlalchemy_shop import NewOrder, Refused, checkout, engine_of_environment
from bench.load import CONNECTIONS

app = Flask(__name__)
engine = engine_of_environment()


@app.post("/api/checkout")
def place_order() -> tuple[dict[str, Any], int]:
    """Place an order."""
    new = NewOrder.model_validate(request.get_json())
    with Session(engine) as session:
        return checkout(session, new), 201


@app.errorhandler(ValidationError)
def invalid(error: ValidationError) -> tuple[dict[str, Any], int]:
    """Answer that the body has wrong fields."""
    return {"errors": error.errors(include_url=False, include_context=False)}, 422


@app.errorhandler(Refused)
def refused(error: Refused) -> tuple[dict[str, Any], int]:
    """Answer that the order breaks a rule."""
    return {"errors": error.errors}, 422


if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(os.environ["PORT"]), threads=CONNECTIONS)
