"""An app that does nothing but parse and answer JSON: the limit of falcon and waitress."""

import os

import falcon
import waitress

from bench.load import CONNECTIONS


class Empty:
    """The one resource."""

    def on_get(self, _: falcon.Request, resp: falcon.Response) -> None:
        """Answer with nothing."""
        resp.media = {}

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Parse the body, and answer with nothing."""
        req.get_media()
        resp.status = falcon.HTTP_201
        resp.media = {}


def main() -> None:
    """Serve with a thread for each connection."""
    app = falcon.App()
    app.add_route("/", Empty())
    waitress.serve(app, host="127.0.0.1", port=int(os.environ["PORT"]), threads=CONNECTIONS)


if __name__ == "__main__":
    main()
