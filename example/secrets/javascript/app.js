// Lets in whoever knows a token, and keeps a record of who tried.
//
// The same as example/secrets, in JavaScript.

import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from "wasi:http/types@0.2.4";
import { append } from "unit:wasm/audit-log@0.1.0";
import { get } from "unit:wasm/secrets@0.1.0";

export const incomingHandler = {
    handle(request, outparam) {
        const [status, text] = admit(request);
        respond(outparam, status, text);
    },
};

function admit(request) {
    let token;
    try {
        token = get("door-token");
    } catch {
        return [500, "There is no token to compare with.\n"];
    }

    const given = request.headers().get("authorization");
    const expected = new TextEncoder().encode(`Bearer ${token}`);
    const admitted = given.length > 0 && same(given[0], expected);

    // Nobody gets in without a record of it.
    try {
        append({
            action: "door.enter",
            subject: request.pathWithQuery() ?? "",
            outcome: admitted ? "success" : "denied",
            fields: [["token", given.length > 0 ? "given" : "none"]],
        });
    } catch {
        return [500, "This cannot be recorded, so it cannot be done.\n"];
    }

    return admitted ? [200, "Welcome.\n"] : [401, "Say the token: Authorization: Bearer ...\n"];
}

// Compares in a time that does not tell where the first difference is.
function same(left, right) {
    let differences = left.length ^ right.length;
    for (let i = 0; i < Math.min(left.length, right.length); i++) {
        differences |= left[i] ^ right[i];
    }
    return differences === 0;
}

function respond(outparam, status, text) {
    const headers = new Fields();
    headers.append("content-type", new TextEncoder().encode("text/plain"));
    const response = new OutgoingResponse(headers);
    response.setStatusCode(status);
    const body = response.body();
    ResponseOutparam.set(outparam, { tag: "ok", val: response });
    const stream = body.write();
    stream.blockingWriteAndFlush(new TextEncoder().encode(text));
    stream[Symbol.dispose]();
    OutgoingBody.finish(body, undefined);
}
