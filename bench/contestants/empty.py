"""An app that does nothing but parse and answer JSON: the limit of falcon and waitress."""

import os

import falcon
import waitress

from runtime.server import THREADS


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
    """Serve with as many threads as the shop has."""
    app = falcon.App()
    app.add_route("/", Empty())
    waitress.serve(app, host="127.0.0.1", port=int(os.environ["PORT"]), threads=THREADS)


if __name__ == "__main__":
    main()
