"""Three functions behind one address: a secret, an echo, and the hash of a page."""

import hashlib
from collections.abc import Iterator
from urllib.parse import urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import outgoing_handler, secrets
from wit_world.imports.streams import InputStream, StreamError_Closed
from wit_world.imports.types import (
    ErrorCode_ConnectionReadTimeout,
    ErrorCode_ConnectionTimeout,
    ErrorCode_DestinationIpProhibited,
    ErrorCode_HttpRequestDenied,
    ErrorCode_HttpRequestUriInvalid,
    ErrorCode_HttpResponseTimeout,
    Fields,
    IncomingRequest,
    IncomingResponse,
    Method_Get,
    Method_Post,
    OutgoingBody,
    OutgoingRequest,
    OutgoingResponse,
    ResponseOutparam,
    Scheme_Http,
    Scheme_Https,
)

PIECE = 64 * 1024
# What one call of blocking_write_and_flush takes.
WRITE = 4096

SCHEMES = {"http": Scheme_Http(), "https": Scheme_Https()}


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str, allow: str | None = None):
        self.status = status
        self.text = text
        self.allow = allow


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, outparam: ResponseOutparam) -> None:
        # No answer is begun before it is known that there is one.
        try:
            pieces = answer(request)
        except Refusal as refusal:
            respond(outparam, refusal.status, iter([line(refusal.text)]), refusal.allow)
        else:
            respond(outparam, 200, pieces)


def answer(request: IncomingRequest) -> Iterator[bytes]:
    path = (request.path_with_query() or "").partition("?")[0]
    match path:
        case "/secret":
            need(request, Method_Get)
            return iter([line(secret())])
        case "/echo":
            need(request, Method_Post)
            return echo(request)
        case "/hash-all":
            need(request, Method_Get)
            return iter([line(hash_all(request))])
        case _:
            raise Refusal(404, "There are /secret, /echo and /hash-all.")


def need(request: IncomingRequest, method: type) -> None:
    if not isinstance(request.method(), method):
        name = method.__name__.removeprefix("Method_").upper()
        raise Refusal(405, f"The method has to be {name}.", allow=name)


def line(text: str) -> bytes:
    return f"{text}\n".encode()


def secret() -> str:
    """To show that it is there. A service of yours would use it and tell nobody."""
    try:
        return secrets.get("function-secret")
    except Err:
        raise Refusal(500, "The secret was not granted.") from None


def echo(request: IncomingRequest) -> Iterator[bytes]:
    """The body, piece by piece, as it comes."""
    with request.consume() as body, body.stream() as stream:
        yield from pieces_of(stream)


def hash_all(request: IncomingRequest) -> str:
    """The SHA-256 of the page that the header field `url` names."""
    urls = request.headers().get("url")
    if len(urls) != 1:
        raise Refusal(400, "There has to be one header field url.")
    digest = hashlib.sha256()
    with fetch(urls[0]) as response:
        status = response.status()
        if status != 200:
            raise Refusal(502, f"The server of that URL answered {status}.")
        with response.consume() as body, body.stream() as stream:
            try:
                for piece in pieces_of(stream):
                    digest.update(piece)
            except Err:
                raise Refusal(502, "The page broke off.") from None
    return digest.hexdigest()


def fetch(url: bytes) -> IncomingResponse:
    request = request_for(url)
    try:
        with outgoing_handler.handle(request, None) as future:
            with future.subscribe() as ready:
                ready.block()
            # It is there, and has not been taken yet.
            result = future.get().value
    except Err as error:
        raise refused(error.value) from None
    if isinstance(result, Err):
        raise refused(result.value)
    return result.value


def request_for(url: bytes) -> OutgoingRequest:
    try:
        parts = urlsplit(url.decode("ascii"))
        scheme = SCHEMES[parts.scheme]
        request = OutgoingRequest(Fields())
        request.set_scheme(scheme)
        request.set_authority(parts.netloc)
        query = f"?{parts.query}" if parts.query else ""
        request.set_path_with_query((parts.path or "/") + query)
    except (ValueError, KeyError, Err):
        raise Refusal(400, "The header field url is no URL for http or https.") from None
    return request


def refused(code) -> Refusal:
    """What a client hears of an error. Which entry is missing is in Unit's log."""
    match code:
        case ErrorCode_HttpRequestDenied() | ErrorCode_DestinationIpProhibited():
            return Refusal(403, "That URL is not allowed here.")
        case ErrorCode_HttpRequestUriInvalid():
            return Refusal(400, "The header field url is no URL for http or https.")
        case (
            ErrorCode_ConnectionTimeout()
            | ErrorCode_HttpResponseTimeout()
            | ErrorCode_ConnectionReadTimeout()
        ):
            return Refusal(504, "The server of that URL did not answer in time.")
        case _:
            return Refusal(502, "That URL could not be fetched.")


def pieces_of(stream: InputStream) -> Iterator[bytes]:
    while True:
        try:
            yield stream.blocking_read(PIECE)
        except Err as error:
            if isinstance(error.value, StreamError_Closed):
                return
            raise


def respond(
    outparam: ResponseOutparam,
    status: int,
    pieces: Iterator[bytes],
    allow: str | None = None,
) -> None:
    fields = [("content-type", b"text/plain; charset=utf-8")]
    if allow:
        fields.append(("allow", allow.encode()))
    response = OutgoingResponse(Fields.from_list(fields))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(outparam, Ok(response))

    with body.write() as stream:
        for piece in pieces:
            for start in range(0, len(piece), WRITE):
                stream.blocking_write_and_flush(piece[start : start + WRITE])
    OutgoingBody.finish(body, None)
