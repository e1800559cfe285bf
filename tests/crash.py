"""The tests' own way to start a process: one that kills itself at a step of its code.

``CRASH_AT='messaging.outbox:Publisher._send 2' CRASH_COUNT=FILE python -m tests.crash shop`` is
``python -m shop``, until that function comes to that step as often as the file says; what came
before there was a file does not count. ``CRASH_LINGER_S`` lets the other threads, and what has been
sent, go on for so long before the end. A step is the start of a statement, before it runs, the end
of a ``with``, or the return of the function.
"""

import ast
import contextlib
import dis
import inspect
import itertools
import multiprocessing
import os
import pkgutil
import runpy
import signal
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

RETURNS = {"RETURN_VALUE", "RETURN_CONST"}
NO_WAY_ON = RETURNS | {"RAISE_VARARGS", "RERAISE"}
NO_WAY_ON |= {"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"}


class Step(NamedTuple):
    """A place in a function: what a tracer hears there, and the text of the statement."""

    event: str
    offsets: set[int]  # in the code of the function
    text: str


def steps(function: str) -> dict[str, Step]:
    """The steps of a function (``package.module:Class.name``), by name, as its code has them now.

    ``7`` is the statement at the seventh line below its first, and ``7.2`` the second place of the
    same, such as the end of a ``with``. What only an exception leads to is left out.
    """
    inner = inspect.unwrap(pkgutil.resolve_name(function))
    code, lines = inner.__code__, inspect.getsourcelines(inner)[0]
    statements = {  # by each of their lines; the inner ones come last
        code.co_firstlineno + line - 1: node.lineno - 1
        for node in ast.walk(ast.parse(textwrap.dedent("".join(lines))).body[0])
        if isinstance(node, ast.stmt)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }

    def statement(instruction: dis.Instruction) -> int:
        positions = instruction.positions
        return statements.get(positions.lineno, 0) if positions and positions.lineno else 0

    flow = _without_exceptions(code)
    found: dict[str, Step] = {}
    places = Counter[int]()
    for line, group in itertools.groupby(flow, lambda pair: statement(pair[0])):
        (first, before), *rest = group
        entered = any(statement(instruction) != line for instruction in before)
        words = {first.opname, *(instruction.opname for instruction, _ in rest)}
        if line and entered and not words <= {"LOAD_CONST", *RETURNS}:  # the return has its own
            places[line] += 1
            name, text = f"{line}", lines[line].strip()
            if places[line] > 1:
                name, text = f"{name}.{places[line]}", f"{text} ({places[line]})"
            found[name] = Step("line", {first.offset}, text)
    returns = {instruction.offset for instruction, _ in flow if instruction.opname in RETURNS}
    return found | {"return": Step("return", returns, "its return")}


def _without_exceptions(code: CodeType) -> list[tuple[dis.Instruction, list[dis.Instruction]]]:
    """The instructions that a run without exceptions comes to, each with those that lead there."""
    instructions = list(dis.get_instructions(code))
    index = {instruction.offset: number for number, instruction in enumerate(instructions)}
    before: dict[int, list[dis.Instruction]] = {0: []}
    ahead = [0]
    while ahead:
        number = ahead.pop()
        instruction = instructions[number]
        following = [] if instruction.opname in NO_WAY_ON else [number + 1]
        if instruction.opcode in (*dis.hasjrel, *dis.hasjabs):
            following.append(index[instruction.argval])
        for other in following:
            if other not in before:
                ahead.append(other)
            before.setdefault(other, []).append(instruction)
    return [(instructions[number], before[number]) for number in sorted(before)]


def arm(function: str, name: str, count: Path, linger_s: float) -> None:
    """Kill this process when it comes to a step as often as the file ``count`` says."""
    code = inspect.unwrap(pkgutil.resolve_name(function)).__code__
    step = steps(function)[name]
    visits = 0

    def in_function(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal visits
        if event == step.event and frame.f_lasti in step.offsets and count.exists():
            visits += 1
            if visits >= int(count.read_text() or visits + 1):
                time.sleep(linger_s)
                os.kill(os.getpid(), signal.SIGKILL)
        return in_function

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        return in_function if frame.f_code is code else None

    threading.settrace(trace)
    sys.settrace(trace)


def run(name: str) -> None:
    """Be ``python -m NAME``, with the step armed that the environment names, if any."""
    if at := os.environ.get("CRASH_AT"):
        linger_s = float(os.environ.get("CRASH_LINGER_S", "0"))
        arm(*at.split(), Path(os.environ["CRASH_COUNT"]), linger_s)
    sys.argv = [name]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_forked(name: str, environment: dict[str, str], outputs: dict[int, Path]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for target, path in outputs.items():
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), target)
    run(name)


forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["__main__", "tests.crash", "tests.conftest"])


class Forked(forks.Process):  # type: ignore[name-defined]
    """A process with the methods of a `subprocess.Popen` that tests need, and a quick start.

    It is forked from one that has imported everything, and started nothing.
    """

    def __init__(self, name: str, environment: dict[str, str], outputs: dict[int, Path]) -> None:
        super().__init__(target=_run_forked, args=(name, environment, outputs), daemon=True)
        self.start()

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout_s: float | None = None) -> int | None:
        self.join(timeout_s)
        return self.exitcode


if __name__ == "__main__":
    run(sys.argv[1])
