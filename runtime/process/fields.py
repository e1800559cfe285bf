"""The types of fields, in requests and in events."""

from typing import Annotated

from pydantic import Field, StringConstraints

MAX_ID = 2**53 - 1  # the largest that every JSON parser holds (RFC 8259, 6)

Id = Annotated[int, Field(strict=True, ge=1, le=MAX_ID)]
Name = Annotated[
    str,
    StringConstraints(
        strict=True, strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00]*$"
    ),
    Field(json_schema_extra={"pattern": r"^[^\x00]*[^\x00\s\x85][^\x00]*$"}),  # it is not blank
]
Price = Annotated[int, Field(strict=True, ge=0, le=10**9)]  # of an item, in the smallest coin
Total = Annotated[int, Field(strict=True, ge=0, le=10**12)]  # of an order: 1,000 items
