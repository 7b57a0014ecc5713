// A guest from another toolchain: C, with wasi-libc and wit-bindgen. Its libc
// looks for files, environment and arguments, so the component imports most of
// the wasi:cli/command world.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest.h"

static wasi_http_types_own_outgoing_response_t text_response(void)
{
    wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
    guest_string_t name;
    guest_string_set(&name, "content-type");
    wasi_http_types_field_value_t value = {(uint8_t *) "text/plain", strlen("text/plain")};
    wasi_http_types_header_error_t error;

    if (!wasi_http_types_method_fields_append(wasi_http_types_borrow_fields(headers),
                                              &name, &value, &error))
    {
        abort();
    }
    return wasi_http_types_constructor_outgoing_response(headers);
}

static void send(wasi_http_types_own_outgoing_body_t body, const char *text)
{
    wasi_http_types_own_output_stream_t stream;
    if (!wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body),
                                                    &stream))
    {
        abort();
    }

    guest_list_u8_t bytes = {(uint8_t *) text, strlen(text)};
    wasi_io_streams_stream_error_t error;
    bool sent = wasi_io_streams_method_output_stream_blocking_write_and_flush(
        wasi_io_streams_borrow_output_stream(stream), &bytes, &error);
    wasi_io_streams_output_stream_drop_own(stream);

    if (!sent) {
        // The client is gone.
        wasi_io_streams_stream_error_free(&error);
        wasi_http_types_outgoing_body_drop_own(body);
        return;
    }

    wasi_http_types_error_code_t why;
    if (!wasi_http_types_static_outgoing_body_finish(body, NULL, &why)) {
        wasi_http_types_error_code_free(&why);
    }
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t outparam)
{
    char text[1024];
    guest_string_t path;

    if (wasi_http_types_method_incoming_request_path_with_query(
            wasi_http_types_borrow_incoming_request(request), &path))
    {
        snprintf(text, sizeof(text), "Hello from C: %.*s\n", (int) path.len, path.ptr);
        guest_string_free(&path);
    } else {
        snprintf(text, sizeof(text), "Hello from C\n");
    }
    wasi_http_types_incoming_request_drop_own(request);

    // To the host's log, by way of libc.
    const char *name = getenv("NAME");
    FILE *file = fopen("/etc/motd", "r");
    printf("NAME is %s, /etc/motd is %s\n", name ? name : "not set",
           file ? "readable" : "out of reach");
    if (file) {
        fclose(file);
    }
    fflush(stdout);

    wasi_http_types_own_outgoing_response_t response = text_response();
    wasi_http_types_own_outgoing_body_t body;
    if (!wasi_http_types_method_outgoing_response_body(
            wasi_http_types_borrow_outgoing_response(response), &body))
    {
        abort();
    }

    wasi_http_types_result_own_outgoing_response_error_code_t result = {
        .is_err = false, .val.ok = response};
    wasi_http_types_static_response_outparam_set(outparam, &result);
    send(body, text);
}
