"""Serves a small application, whose session factory is the library named on the command line.

It runs in an environment of that library's own, so it imports nothing but Pyramid and it. The
body of a request is Python code that gets ``request`` and ``session``; the answer is the
``repr`` of its variable ``result``. Settings come with each request, as JSON in a header: for
every set of settings there is one application. The port is the first line of the output.
"""

import json
import sys
import traceback
from wsgiref.simple_server import WSGIRequestHandler, make_server

from pyramid.config import Configurator
from pyramid.response import Response

LIBRARY = sys.argv[1]
APPLICATIONS = {}


def make_application(settings):
    with Configurator(settings=settings) as config:
        config.include(LIBRARY)
        config.add_route("any", "/")
        config.add_view(view, route_name="any")
        return config.make_wsgi_app()


def view(request):
    names = {"request": request, "session": request.session, "result": None}
    exec(request.body.decode("utf-8"), names)
    return Response(repr(names["result"]), content_type="text/plain")


def serve(environ, start_response):
    settings = environ["HTTP_X_SETTINGS"]
    try:
        if settings not in APPLICATIONS:
            APPLICATIONS[settings] = make_application(json.loads(settings))
        return APPLICATIONS[settings](environ, start_response)
    except Exception:
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        return [traceback.format_exc().encode("utf-8")]


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


if __name__ == "__main__":
    with make_server("127.0.0.1", 0, serve, handler_class=Quiet) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
