"""Answers every request with a description of that request, in JSON."""

import json
import os
import sys
from urllib.parse import parse_qsl

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    Method_Other,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, outparam: ResponseOutparam) -> None:
        respond(outparam, describe(request))


def describe(request: IncomingRequest) -> dict:
    method = name_of(request.method())
    path, _, query = (request.path_with_query() or "").partition("?")

    # What a component prints is in the server's log.
    print(f"python: {method} {path}", file=sys.stderr)

    return {
        "language": "python",
        "method": method,
        "path": path,
        "query": dict(parse_qsl(query, keep_blank_values=True)),
        "headers": headers_of(request),
        "body": read_body(request).decode(errors="replace"),
        "greeting": os.environ.get("GREETING", "Hello"),
    }


def name_of(method) -> str:
    if isinstance(method, Method_Other):
        return method.value
    # Method_Get and so on.
    return type(method).__name__.removeprefix("Method_").upper()


def headers_of(request: IncomingRequest) -> dict[str, str]:
    """Values of equal names are joined."""
    headers: dict[str, str] = {}
    for name, value in request.headers().entries():
        value = value.decode(errors="replace")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def read_body(request: IncomingRequest) -> bytes:
    pieces = []
    with request.consume() as body, body.stream() as stream:
        while True:
            try:
                pieces.append(stream.blocking_read(64 * 1024))
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return b"".join(pieces)
                raise


def respond(outparam: ResponseOutparam, answer: dict) -> None:
    text = (json.dumps(answer) + "\n").encode()
    fields = [
        ("content-type", b"application/json"),
        ("content-length", str(len(text)).encode()),
    ]
    response = OutgoingResponse(Fields.from_list(fields))
    body = response.body()
    ResponseOutparam.set(outparam, Ok(response))

    with body.write() as stream:
        # This call takes 4096 bytes at most.
        for start in range(0, len(text), 4096):
            stream.blocking_write_and_flush(text[start : start + 4096])
    OutgoingBody.finish(body, None)
