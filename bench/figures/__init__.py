"""The figures, by name: each is a function that measures and gives its findings."""

from collections.abc import Callable

from bench.figures import (
    catalogue,
    checkout,
    copies,
    crowd,
    events,
    footprint,
    growth,
    payment,
    recovery,
    retention,
)
from bench.findings import Finding
from bench.processes import Processes
from bench.turns import Effort

Figure = Callable[[Processes, Effort], list[Finding]]

FIGURES: dict[str, Figure] = {
    "checkout": checkout.alone,
    "everything": checkout.with_everything,
    "cost": checkout.cost,
    "tails": checkout.tails,
    "frameworks": checkout.among_frameworks,
    "catalogue": catalogue.listed,
    "unchanged": catalogue.unchanged,
    "crowd": crowd.of_clients,
    "payment": payment.latency,
    "events": events.throughput,
    "recovery": recovery.catching_up,
    "growth": growth.with_rows,
    "retention": retention.under_load,
    "footprint": footprint.of_processes,
    "copies": copies.beyond_one_machine,
}
