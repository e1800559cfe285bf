"""The shop's checkout in FastAPI under uvicorn, as the tutorial of FastAPI writes it."""
# Without these libraries, their names have no types.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator"

import os
from collections.abc import Iterator
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.orm import Session

from bench.contestants.sqlalchemy_shop import NewOrder, Refused, checkout, engine_of_environment

app = FastAPI()
engine = engine_of_environment()


def get_session() -> Iterator[Session]:
    """Give each request a session of its own."""
    with Session(engine) as session:
        yield session


@app.post("/api/checkout", status_code=201)
def place_order(new: NewOrder, session: Annotated[Session, Depends(get_session)]) -> dict[str, Any]:
    """Place an order."""
    try:
        return checkout(session, new)
    except Refused as error:
        raise HTTPException(422, error.errors) from None


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]))
