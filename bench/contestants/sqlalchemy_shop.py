"""The shop's checkout on SQLAlchemy: the same tables, pragmas, rules and event, as an ORM does it.

Both FastAPI and Flask serve it.
"""
# Without these libraries, their names have no types.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator, no-any-return"

import json
import os
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from pydantic import BaseModel, Field
from sqlalchemy import Engine, ForeignKey, create_engine, event, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from shop.orders import uuid7

BUSY_TIMEOUT_S = 30  # longer than the shop's: with 16 writers some wait for more than 5 s


class Base(DeclarativeBase):
    """What the tables have in common."""


class User(Base):
    """Somebody who can buy."""

    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Item(Base):
    """An item for sale."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[int]
    active: Mapped[bool]


class Line(Base):
    """So many of an item, as it was named and priced when it was bought."""

    __tablename__ = "order_line"
    order_id: Mapped[int] = mapped_column(ForeignKey("order.number"), primary_key=True)
    item_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[int]
    quantity: Mapped[int]


class Order(Base):
    """A purchase."""

    __tablename__ = "order"
    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[UUID]
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id"))
    price: Mapped[int]
    placed_at: Mapped[str]
    paid_at: Mapped[str | None]
    lines: Mapped[list[Line]] = relationship()


class Head(Base):
    """Where the writer of events stands."""

    __tablename__ = "head"
    id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[bytes]
    sequence: Mapped[int]


class Outbox(Base):
    """Every event that has been told or is to be told."""

    __tablename__ = "outbox"
    sequence: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[bytes]


Id = Annotated[int, Field(strict=True, ge=1, lt=2**63)]


class NewOrder(BaseModel):
    """What a user wants to buy."""

    user_id: Id
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=1000)]


class Refused(Exception):
    """The order breaks a rule; ``errors`` tells which."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


def engine_of_environment() -> Engine:
    """The database that the environment names, with the shop's pragmas."""
    engine = create_engine(
        f"sqlite:///{os.environ['DATABASE']}", connect_args={"timeout": BUSY_TIMEOUT_S}
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        connection.isolation_level = None  # SQLAlchemy begins transactions, as below
        for pragma in ("journal_mode = wal", "synchronous = full", "foreign_keys = on"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def checkout(session: Session, new: NewOrder) -> dict[str, Any]:
    """Place an order and write its event, in one transaction; `Refused` if it breaks a rule."""
    quantities = Counter(new.item_ids)
    found = session.scalars(select(Item).where(Item.id.in_(quantities)))
    items = {item.id: item for item in found}
    _check(session, new, items)
    lines = [
        Line(item_id=item_id, name=item.name, price=item.price, quantity=quantities[item_id])
        for item_id, item in sorted(items.items())
    ]
    order = Order(
        id=uuid7(),
        user_id=new.user_id,
        price=sum(line.price * line.quantity for line in lines),
        placed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        lines=lines,
    )
    session.add(order)
    session.flush()
    advance = update(Head).values(sequence=Head.sequence + 1).returning(Head.epoch, Head.sequence)
    epoch, sequence = session.execute(advance).one()
    session.add(Outbox(sequence=sequence, body=_document(epoch, sequence, order)))
    answer = _shown(order)
    session.commit()
    return answer


def _check(session: Session, new: NewOrder, items: dict[int, Item]) -> None:
    errors = []
    if session.get(User, new.user_id) is None:
        errors.append(f"there is no user {new.user_id}")
    for item_id in new.item_ids:
        if item_id not in items:
            errors.append(f"there is no item {item_id}")
        elif not items[item_id].active:
            errors.append(f"item {item_id} is not for sale now")
    if errors:
        raise Refused(errors)


def _document(epoch: bytes, sequence: int, order: Order) -> bytes:
    lines = [{"item_id": x.item_id, "quantity": x.quantity, "price": x.price} for x in order.lines]
    data = {"order_id": str(order.id), "user_id": order.user_id, "price": order.price}
    document = {
        "specversion": "1.0",
        "id": f"{epoch.hex()}:{sequence}",
        "source": "/shop",
        "type": "order.placed",
        "subject": str(order.id),
        "time": order.placed_at,
        "datacontenttype": "application/json",
        "data": {**data, "items": lines},
        "sequence": str(sequence),
        "correlationid": uuid4().hex,
    }
    return json.dumps(document).encode()


def _shown(order: Order) -> dict[str, Any]:
    names = ("item_id", "name", "price", "quantity")
    return {
        "id": str(order.id),
        "user_id": order.user_id,
        "items": [{name: getattr(line, name) for name in names} for line in order.lines],
        "price": order.price,
        "status": "placed",
        "placed_at": order.placed_at,
        "paid_at": None,
    }
