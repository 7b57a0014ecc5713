// Answers every request with a description of that request, in JSON.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service.h"

// Bytes that grow at their end.
typedef struct {
    char *bytes;
    size_t length;
    size_t room;
} text_t;

// Names and values. A new one starts as {0}, and so does a text.
typedef struct {
    text_t *names;
    text_t *values;
    size_t count;
} table_t;

static void add(text_t *text, const void *bytes, size_t length)
{
    if (text->room - text->length < length) {
        text->room = 2 * text->room + length;
        text->bytes = realloc(text->bytes, text->room);
        if (text->bytes == NULL) {
            abort();
        }
    }
    if (length > 0) {
        memcpy(text->bytes + text->length, bytes, length);
        text->length += length;
    }
}

static void add_string(text_t *text, const char *string)
{
    add(text, string, strlen(string));
}

// The value of that name, which is added if it is not there yet.
static text_t *value_of(table_t *table, const text_t *name)
{
    for (size_t i = 0; i < table->count; i++) {
        text_t *known = &table->names[i];
        if (known->length == name->length && memcmp(known->bytes, name->bytes, name->length) == 0) {
            return &table->values[i];
        }
    }
    size_t count = table->count + 1;
    table->names = realloc(table->names, count * sizeof(text_t));
    table->values = realloc(table->values, count * sizeof(text_t));
    if (table->names == NULL || table->values == NULL) {
        abort();
    }
    text_t *added = &table->names[table->count];
    *added = (text_t) {0};
    add(added, name->bytes, name->length);
    table->values[table->count] = (text_t) {0};
    return &table->values[table->count++];
}

static void free_table(table_t *table)
{
    for (size_t i = 0; i < table->count; i++) {
        free(table->names[i].bytes);
        free(table->values[i].bytes);
    }
    free(table->names);
    free(table->values);
}

// How many of these bytes are one character in UTF-8, or 0.
static size_t utf8_size(const unsigned char *bytes, size_t length)
{
    unsigned char first = bytes[0];
    size_t size = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (size > length || (first >= 0x80 && first < 0xc2) || first > 0xf4) {
        return 0;
    }
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    // Longer than need be, a surrogate, or over 0x10ffff.
    if ((first == 0xe0 && bytes[1] < 0xa0) || (first == 0xed && bytes[1] > 0x9f) ||
        (first == 0xf0 && bytes[1] < 0x90) || (first == 0xf4 && bytes[1] > 0x8f))
    {
        return 0;
    }
    return size;
}

// Adds a JSON string. What is not UTF-8 becomes U+FFFD.
static void add_json(text_t *json, const text_t *value)
{
    add_string(json, "\"");
    for (size_t at = 0; at < value->length;) {
        const unsigned char *rest = (const unsigned char *) value->bytes + at;
        size_t size = utf8_size(rest, value->length - at);
        if (size == 0) {
            add_string(json, "\\ufffd");
            size = 1;
        } else if (*rest == '"' || *rest == '\\') {
            add_string(json, "\\");
            add(json, rest, 1);
        } else if (*rest < 0x20) {
            char escape[8];
            snprintf(escape, sizeof(escape), "\\u%04x", *rest);
            add_string(json, escape);
        } else {
            add(json, rest, size);
        }
        at += size;
    }
    add_string(json, "\"");
}

static void add_member(text_t *json, const char *name, const text_t *value)
{
    add_string(json, json->length > 1 ? ",\"" : "\"");
    add_string(json, name);
    add_string(json, "\":");
    add_json(json, value);
}

static void add_table(text_t *json, const char *name, const table_t *table)
{
    add_string(json, ",\"");
    add_string(json, name);
    add_string(json, "\":{");
    for (size_t i = 0; i < table->count; i++) {
        add_string(json, i > 0 ? "," : "");
        add_json(json, &table->names[i]);
        add_string(json, ":");
        add_json(json, &table->values[i]);
    }
    add_string(json, "}");
}

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    digit |= 0x20;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

// Adds a name or a value of a query, as it was before it was encoded.
static void add_decoded(text_t *text, const char *bytes, size_t length)
{
    for (size_t at = 0; at < length; at++) {
        char byte = bytes[at] == '+' ? ' ' : bytes[at];
        if (byte == '%' && length - at > 2) {
            int high = hex_digit(bytes[at + 1]), low = hex_digit(bytes[at + 2]);
            if (high >= 0 && low >= 0) {
                byte = (char) (high << 4 | low);
                at += 2;
            }
        }
        add(text, &byte, 1);
    }
}

static void parse_query(table_t *table, const char *query, size_t length)
{
    while (length > 0) {
        const char *end = memchr(query, '&', length);
        size_t size = end ? (size_t) (end - query) : length;
        const char *equals = memchr(query, '=', size);
        size_t name_size = equals ? (size_t) (equals - query) : size;

        if (size > 0) {
            text_t name = {0};
            add_decoded(&name, query, name_size);
            text_t *value = value_of(table, &name);
            value->length = 0;
            if (equals) {
                add_decoded(value, equals + 1, size - name_size - 1);
            }
            free(name.bytes);
        }
        query += end ? size + 1 : size;
        length -= end ? size + 1 : size;
    }
}

static void read_method(text_t *text, wasi_http_types_borrow_incoming_request_t request)
{
    // In the order of the WIT.
    static const char *const names[] = {"GET",     "HEAD",    "POST",  "PUT",  "DELETE",
                                        "CONNECT", "OPTIONS", "TRACE", "PATCH"};
    wasi_http_types_method_t method;
    wasi_http_types_method_incoming_request_method(request, &method);
    if (method.tag == WASI_HTTP_TYPES_METHOD_OTHER) {
        add(text, method.val.other.ptr, method.val.other.len);
    } else {
        add_string(text, names[method.tag]);
    }
    wasi_http_types_method_free(&method);
}

// Values of equal names are joined.
static void read_headers(table_t *table, wasi_http_types_borrow_incoming_request_t request)
{
    wasi_http_types_own_headers_t headers = wasi_http_types_method_incoming_request_headers(request);
    wasi_http_types_list_tuple2_field_name_field_value_t entries;
    wasi_http_types_method_fields_entries(wasi_http_types_borrow_fields(headers), &entries);
    for (size_t i = 0; i < entries.len; i++) {
        text_t name = {0};
        add(&name, entries.ptr[i].f0.ptr, entries.ptr[i].f0.len);
        size_t known = table->count;
        text_t *value = value_of(table, &name);
        add_string(value, table->count == known ? ", " : "");
        add(value, entries.ptr[i].f1.ptr, entries.ptr[i].f1.len);
        free(name.bytes);
    }
    wasi_http_types_list_tuple2_field_name_field_value_free(&entries);
    wasi_http_types_fields_drop_own(headers);
}

// Reads all of the body; false if the client broke off in the middle of it.
static bool read_body(text_t *text, wasi_http_types_borrow_incoming_request_t request)
{
    wasi_http_types_own_incoming_body_t body;
    wasi_http_types_own_input_stream_t stream;
    if (!wasi_http_types_method_incoming_request_consume(request, &body) ||
        !wasi_http_types_method_incoming_body_stream(wasi_http_types_borrow_incoming_body(body),
                                                     &stream))
    {
        abort();
    }

    service_list_u8_t piece;
    wasi_io_streams_stream_error_t error;
    while (wasi_io_streams_method_input_stream_blocking_read(
        wasi_io_streams_borrow_input_stream(stream), 64 * 1024, &piece, &error))
    {
        add(text, piece.ptr, piece.len);
        service_list_u8_free(&piece);
    }
    bool whole = error.tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED;
    wasi_io_streams_stream_error_free(&error);
    wasi_io_streams_input_stream_drop_own(stream);
    wasi_http_types_incoming_body_drop_own(body);
    return whole;
}

static bool describe(text_t *json, wasi_http_types_borrow_incoming_request_t request)
{
    text_t method = {0}, path = {0}, body = {0}, language = {0}, greeting = {0};
    table_t query = {0}, headers = {0};
    service_string_t target;

    read_method(&method, request);
    if (wasi_http_types_method_incoming_request_path_with_query(request, &target)) {
        const char *bytes = (const char *) target.ptr;
        const char *mark = memchr(bytes, '?', target.len);
        size_t length = mark ? (size_t) (mark - bytes) : target.len;
        add(&path, bytes, length);
        if (mark) {
            parse_query(&query, mark + 1, target.len - length - 1);
        }
        service_string_free(&target);
    }
    read_headers(&headers, request);
    add_string(&language, "c");
    const char *variable = getenv("GREETING");
    add_string(&greeting, variable ? variable : "Hello");

    // What a component prints is in the server's log.
    fprintf(stderr, "c: %.*s %.*s\n", (int) method.length, method.bytes, (int) path.length,
            path.bytes);

    bool whole = read_body(&body, request);
    add_string(json, "{");
    add_member(json, "language", &language);
    add_member(json, "method", &method);
    add_member(json, "path", &path);
    add_table(json, "query", &query);
    add_table(json, "headers", &headers);
    add_member(json, "body", &body);
    add_member(json, "greeting", &greeting);
    add_string(json, "}\n");

    free(method.bytes);
    free(path.bytes);
    free(body.bytes);
    free(language.bytes);
    free(greeting.bytes);
    free_table(&query);
    free_table(&headers);
    return whole;
}

static void append(wasi_http_types_own_fields_t headers, const char *name, const char *value)
{
    service_string_t key;
    service_string_set(&key, name);
    wasi_http_types_field_value_t bytes = {(uint8_t *) value, strlen(value)};
    wasi_http_types_header_error_t error;
    if (!wasi_http_types_method_fields_append(wasi_http_types_borrow_fields(headers), &key, &bytes,
                                              &error))
    {
        abort();
    }
}

static bool send(wasi_http_types_borrow_outgoing_body_t body, const text_t *text)
{
    wasi_http_types_own_output_stream_t stream;
    if (!wasi_http_types_method_outgoing_body_write(body, &stream)) {
        abort();
    }
    bool sent = true;
    for (size_t at = 0; sent && at < text->length;) {
        // This call takes 4096 bytes at most.
        size_t size = text->length - at < 4096 ? text->length - at : 4096;
        service_list_u8_t piece = {(uint8_t *) text->bytes + at, size};
        wasi_io_streams_stream_error_t error;
        sent = wasi_io_streams_method_output_stream_blocking_write_and_flush(
            wasi_io_streams_borrow_output_stream(stream), &piece, &error);
        if (!sent) {
            wasi_io_streams_stream_error_free(&error);
        }
        at += size;
    }
    wasi_io_streams_output_stream_drop_own(stream);
    return sent;
}

static void respond(exports_wasi_http_incoming_handler_own_response_outparam_t outparam,
                    const text_t *text)
{
    char length[24];
    snprintf(length, sizeof(length), "%zu", text->length);
    wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
    append(headers, "content-type", "application/json");
    append(headers, "content-length", length);

    // Status 200 is what a new response has.
    wasi_http_types_own_outgoing_response_t response =
        wasi_http_types_constructor_outgoing_response(headers);
    wasi_http_types_own_outgoing_body_t body;
    if (!wasi_http_types_method_outgoing_response_body(
            wasi_http_types_borrow_outgoing_response(response), &body))
    {
        abort();
    }
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false,
                                                                        .val.ok = response};
    wasi_http_types_static_response_outparam_set(outparam, &result);

    // If it fails the client has gone: a body that is dropped without finish
    // cannot pass for a whole one.
    if (!send(wasi_http_types_borrow_outgoing_body(body), text)) {
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
    text_t json = {0};
    if (describe(&json, wasi_http_types_borrow_incoming_request(request))) {
        respond(outparam, &json);
    } else {
        wasi_http_types_result_own_outgoing_response_error_code_t result = {
            .is_err = true,
            .val.err = {.tag = WASI_HTTP_TYPES_ERROR_CODE_INTERNAL_ERROR}};
        wasi_http_types_static_response_outparam_set(outparam, &result);
    }
    free(json.bytes);
    wasi_http_types_incoming_request_drop_own(request);
}
