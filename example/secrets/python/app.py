"""Lets in whoever knows a token, and keeps a record of who tried.

The same as example/secrets, in Python.
"""

import hmac

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import audit_log, secrets
from wit_world.imports.audit_log import Event, Outcome
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, outparam: ResponseOutparam) -> None:
        status, text = admit(request)
        respond(outparam, status, text)


def admit(request: IncomingRequest) -> tuple[int, str]:
    try:
        token = secrets.get("door-token")
    except Err:
        return 500, "There is no token to compare with.\n"

    given = request.headers().get("authorization")
    admitted = bool(given) and hmac.compare_digest(given[0], f"Bearer {token}".encode())

    # Nobody gets in without a record of it.
    event = Event(
        action="door.enter",
        subject=request.path_with_query() or "",
        outcome=Outcome.SUCCESS if admitted else Outcome.DENIED,
        fields=[("token", "given" if given else "none")],
    )
    try:
        audit_log.append(event)
    except Err:
        return 500, "This cannot be recorded, so it cannot be done.\n"

    if admitted:
        return 200, "Welcome.\n"
    return 401, "Say the token: Authorization: Bearer ...\n"


def respond(outparam: ResponseOutparam, status: int, text: str) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(outparam, Ok(response))
    with body.write() as stream:
        stream.blocking_write_and_flush(text.encode())
    OutgoingBody.finish(body, None)
