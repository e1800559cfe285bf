"""Look at the streams of events: ``python -m messaging tail STREAM``."""

from contextlib import ExitStack
from secrets import token_hex

from messaging.arguments import stream
from messaging.exchange import transport
from messaging.tail import tail
from runtime.process.commands import add_command, command_line, number
from runtime.process.errors import StartError
from runtime.process.logs import configure_logs
from runtime.process.output import complain
from runtime.process.settings import load_settings
from runtime.process.signals import stop_signals

EXAMPLES = """\
%(prog)s orders                live, from the next event on
%(prog)s orders --from 1       from the first one on
%(prog)s payments --from 1 | jq .data.price"""


def main() -> None:
    """Print a stream until Ctrl-C."""
    parser = command_line(__doc__, "%(prog)s tail orders --from 1", "python -m messaging")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = add_command(commands, "tail", "print a stream as JSON lines", EXAMPLES)
    add = command.add_argument
    add("stream", type=stream, metavar="STREAM", help="its name: see docs/events.md")
    add("--from", type=number(int, 1), metavar="N", dest="first", help="begin with this sequence")
    given = parser.parse_args()
    settings = load_settings().model_copy(update={"log_level": "warning"})
    configure_logs("messaging", settings)
    reader = f"tail-{token_hex(8)}"
    with stop_signals() as stopped, ExitStack() as ending:
        try:
            broker = transport(settings, reader, None, [given.stream])
            ending.callback(broker.close)
            broker.open()
            tail(broker, given.stream, given.first, stopped)
        except StartError as error:
            complain(f"messaging: {error}", service="messaging")
            raise SystemExit(1) from None


if __name__ == "__main__":
    main()
