"""HTTP in: parse, call, answer."""

from functools import partial
from typing import Literal
from uuid import UUID

from falcon import Request, Response
from pydantic import BaseModel, Field

from payment.payments import Pay, Payments
from runtime.process.fields import Id, Total
from runtime.web.lists import IdPage, QueryId, send_list
from runtime.web.once import Change, created
from runtime.web.openapi import answers, like, tag
from runtime.web.requests import documented, send_object

api = documented("Payment")
PAYMENTS = tag("payments", "The payments, all of which succeeded.")


class NewPayment(BaseModel):
    """A direct payment: by a user, with a price in the smallest coin."""

    model_config = like(user_id=1, price=4300)

    user_id: Id
    price: Total


class Payment(NewPayment):
    """A payment; ``order_id`` is null for a direct one."""

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

    user_id: QueryId | None = Field(None, description="Only those of this user.")
    order_id: UUID | None = Field(None, description="Only that of this order.")


class PayerTotal(BaseModel):
    """The payments of a user."""

    user_id: Id
    count: int
    sum: int


class Totals(BaseModel):
    """The number of payments and their sum, and the biggest payers."""

    model_config = like(count=6, sum=23665, users=[{"user_id": 2, "count": 2, "sum": 8840}])

    count: int
    sum: int
    users: list[PayerTotal]


class TotalsQuery(BaseModel):
    """The query of the totals."""

    user_id: QueryId | None = Field(None, description="Only those of this user.")


class PaymentResource:
    """The payments."""

    def __init__(self, payments: Payments) -> None:
        self._payments = payments

    @api.validate(
        resp=answers(201, Payment, 400, 413, 415), tags=[PAYMENTS], operation_id="createPayment"
    )
    def on_post_new(self, req: Request, resp: Response, json: NewPayment) -> Change:
        """Pay directly, for no order.

        Orders are paid when the shop announces them.
        """
        pay = Pay(json.user_id, json.price, correlation_id=req.context.request_id)
        return Change(self._payments.pay, pay, created)

    @api.validate(resp=answers(200, list[Payment]), tags=[PAYMENTS], operation_id="listPayments")
    def on_get(self, req: Request, resp: Response, query: PaymentPage) -> None:
        """List payments, newest first.

        All of them, a user's, or an order's.
        """
        wanted = query.user_id, query.order_id, query.after, query.fetch
        private = bool(query.user_id or query.order_id)
        send_list(req, resp, query, partial(self._payments.all, *wanted), private=private)

    @api.validate(resp=answers(200, Totals), tags=[PAYMENTS], operation_id="getTotals")
    def on_get_totals(self, req: Request, resp: Response, query: TotalsQuery) -> None:
        """Show how much was paid.

        By all users, with the hundred biggest payers, or by one user.
        """
        totals = self._payments.totals(query.user_id)
        send_object(req, resp, totals, private=bool(query.user_id))
