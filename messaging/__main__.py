"""Look at the streams of events: ``python -m messaging tail STREAM``."""

import argparse
from secrets import token_hex

from messaging.exchange import transport
from messaging.tail import tail
from messaging.wire import MAX_SEQUENCE, NAME
from runtime.commands import add_command, command_line, number
from runtime.errors import StartError
from runtime.logs import configure_logs
from runtime.output import STDERR, say
from runtime.settings import load_settings
from runtime.signals import stop_signals

EXAMPLES = """\
%(prog)s orders                live, from the next event on
%(prog)s orders --from 1       from the first one on
%(prog)s payments --from 1 | jq .data.price"""


def stream(text: str) -> str:
    """Parse the name of a stream."""
    if not NAME.fullmatch(text.encode(errors="replace")):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a stream: see docs/events.md")
    return text


def main() -> None:
    """Print a stream until Ctrl-C."""
    parser = command_line(__doc__, "%(prog)s tail orders --from 1", "python -m messaging")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = add_command(commands, "tail", "print a stream as JSON lines", EXAMPLES)
    add = command.add_argument
    add("stream", type=stream, metavar="STREAM", help="its name: see docs/events.md")
    add("--from", type=number(int, 1), metavar="N", dest="first", help="its sequence")
    given = parser.parse_args()
    settings = load_settings().model_copy(update={"log_level": "warning"})
    configure_logs("messaging", settings)
    if given.first and given.first > MAX_SEQUENCE:
        command.error(f"argument --from: no stream has more than {MAX_SEQUENCE} events")
    reader = f"tail-{token_hex(8)}"
    way = transport(settings, reader, None, [given.stream])
    with stop_signals() as stopped:
        try:
            way.open()
            tail(way, given.stream, given.first, stopped)
        except StartError as error:
            say(f"messaging: {error}", STDERR)
            raise SystemExit(1) from None
        finally:
            way.close()


if __name__ == "__main__":
    main()
