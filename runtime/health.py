"""Check that the processes on this machine answer, as a container's health check."""

from http.client import HTTPConnection, HTTPException

from runtime.process.children import listens
from runtime.process.commands import command_line
from runtime.process.output import complain
from runtime.process.settings import NAMES, SERVICES, Settings, load_settings

EXAMPLES = """\
%(prog)s             all that listen here, at least one
%(prog)s shop"""
ASKED = (*NAMES, *(f"{name}_exchange" for name in SERVICES))
TIMEOUT_S = 3.0


def serves(settings: Settings, name: str) -> bool:
    """Whether a process answers ``/livez``.

    Not ``/readyz``: a restart would not cure an unready process.
    """
    connection = HTTPConnection(settings.host, settings.http_port(name)[0], timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Exit with 1 and one line if a process does not serve."""
    parser = command_line(__doc__, EXAMPLES, "python -m runtime.health")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ASKED)}")
    names = parser.parse_args().names
    if unknown := set(names) - set(ASKED):
        parser.error(f"{unknown.pop()!r} is not one of {', '.join(ASKED)}")
    settings = load_settings()
    asked = names or [n for n in ASKED if listens(settings.host, settings.http_port(n)[0])]
    silent = [name for name in asked if not serves(settings, name)]
    if silent or not asked:
        why = f"no answer from {', '.join(silent)}" if silent else "nothing listens here"
        complain(f"health: {why}", service="health")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
