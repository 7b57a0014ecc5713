"""A guest from another toolchain: Python, by componentize-py.

The component carries a whole interpreter, which imports every interface of
wasi:cli/command.
"""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, outparam: ResponseOutparam) -> None:
        text = f"Hello from Python: {request.path_with_query()}\n".encode()
        headers = Fields.from_list(
            [
                ("content-type", b"text/plain"),
                ("content-length", str(len(text)).encode()),
            ]
        )
        response = OutgoingResponse(headers)
        body = response.body()
        ResponseOutparam.set(outparam, Ok(response))

        with body.write() as stream:
            stream.blocking_write_and_flush(text)
        OutgoingBody.finish(body, None)
