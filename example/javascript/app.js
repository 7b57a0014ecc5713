// Answers every request with a description of that request, in JSON.

import { getEnvironment } from "wasi:cli/environment@0.2.10";

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
    const { pathname, searchParams } = new URL(request.url);

    // What a component prints is in the server's log.
    console.error(`javascript: ${request.method} ${pathname}`);

    const environment = Object.fromEntries(getEnvironment());
    const description = {
        language: "javascript",
        method: request.method,
        path: pathname,
        query: Object.fromEntries(searchParams),
        headers: Object.fromEntries(request.headers),
        body: await request.text(),
        greeting: environment.GREETING ?? "Hello",
    };
    return new Response(JSON.stringify(description) + "\n", {
        headers: { "content-type": "application/json" },
    });
}
