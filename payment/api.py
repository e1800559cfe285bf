"""HTTP in: parse, call, answer."""

from functools import partial
from typing import Literal
from uuid import UUID

from falcon import Request, Response
from pydantic import BaseModel

from payment.payments import Payments
from runtime.api import Id, IdPage, QueryId, Total, answers, created, documented, like, send_list

api = documented("Payment")


class NewPayment(BaseModel):
    """Who pays, and how much in the smallest coin."""

    model_config = like(user_id=1, price=4300)

    user_id: Id
    price: Total


class Payment(NewPayment):
    """A payment; ``order_id`` is null for one that was made directly."""

    model_config = like(
        id=3,
        user_id=1,
        price=4300,
        order_id=None,
        status="succeeded",
        paid_at="2026-11-23T10:00:00.123Z",
    )

    id: Id
    order_id: UUID | None
    status: Literal["succeeded"]
    paid_at: str


class PaymentPage(IdPage):
    """The query of the list of payments."""

    user_id: QueryId | None = None
    order_id: UUID | None = None


class PaymentResource:
    """The payments."""

    def __init__(self, payments: Payments) -> None:
        self._payments = payments

    @api.validate(resp=answers(201, Payment, 400, 413, 415), tags=["payments"])
    def on_post_new(self, req: Request, resp: Response, json: NewPayment) -> None:
        """Pay directly, for no order."""
        created(resp, self._payments.pay(json.user_id, json.price))

    @api.validate(resp=answers(200, list[Payment]), tags=["payments"])
    def on_get(self, req: Request, resp: Response, query: PaymentPage) -> None:
        """List payments, newest first."""
        wanted = query.user_id, query.order_id, query.after, query.fetch
        send_list(req, resp, query, partial(self._payments.all, *wanted))
