// Answers every request with a description of that request, in JSON.
//
// The package's name and those of what it imports are wit-bindgen's.
package export_wasi_http_incoming_handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime/debug"
	"strings"

	. "wit_component/wasi_http_types"
	"wit_component/wasi_io_streams"

	. "go.bytecodealliance.org/pkg/wit/types"
)

// The collector must not start inside of a call of the host that returns bytes:
// it reads the clock, which is not allowed there, and that is a trap (Wasmtime's
// issue 14318). An instance has one request, and all that it leaves is freed with
// it. Who needs more memory calls runtime.GC between such calls.
func init() {
	debug.SetGCPercent(-1)
}

type description struct {
	Language string            `json:"language"`
	Method   string            `json:"method"`
	Path     string            `json:"path"`
	Query    map[string]string `json:"query"`
	Headers  map[string]string `json:"headers"`
	Body     string            `json:"body"`
	Greeting string            `json:"greeting"`
}

func Handle(request *IncomingRequest, outparam *ResponseOutparam) {
	described, err := describe(request)
	if err != nil {
		// The client broke off in the middle of the body.
		reason := MakeErrorCodeInternalError(Some(err.Error()))
		ResponseOutparamSet(outparam, Err[*OutgoingResponse](reason))
		return
	}
	text, err := json.Marshal(described)
	if err != nil {
		panic(err)
	}
	respond(outparam, append(text, '\n'))
}

func describe(request *IncomingRequest) (*description, error) {
	method := nameOf(request.Method())
	path, query, _ := strings.Cut(request.PathWithQuery().SomeOr(""), "?")

	// What a component prints is in the server's log.
	fmt.Fprintf(os.Stderr, "go: %s %s\n", method, path)

	body, err := readBody(request)
	if err != nil {
		return nil, err
	}
	greeting, found := os.LookupEnv("GREETING")
	if !found {
		greeting = "Hello"
	}
	return &description{
		Language: "go",
		Method:   method,
		Path:     path,
		Query:    parse(query),
		Headers:  headersOf(request),
		Body:     string(body),
		Greeting: greeting,
	}, nil
}

func nameOf(method Method) string {
	if method.Tag() == Method_Other {
		return method.Other()
	}
	// In the order of the WIT.
	names := []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
	return names[method.Tag()]
}

// Of equal names the last one counts.
func parse(query string) map[string]string {
	pairs := make(map[string]string)
	// What is wrong in a query is left out.
	values, _ := url.ParseQuery(query)
	for name, all := range values {
		pairs[name] = all[len(all)-1]
	}
	return pairs
}

// Values of equal names are joined.
func headersOf(request *IncomingRequest) map[string]string {
	headers := make(map[string]string)
	for _, field := range request.Headers().Entries() {
		name, value := field.F0, string(field.F1)
		if known, found := headers[name]; found {
			value = known + ", " + value
		}
		headers[name] = value
	}
	return headers
}

func readBody(request *IncomingRequest) ([]byte, error) {
	body := request.Consume().Ok()
	defer body.Drop()
	stream := body.Stream().Ok()
	defer stream.Drop()
	var pieces [][]byte
	for {
		piece := stream.BlockingRead(64 * 1024)
		if piece.IsOk() {
			pieces = append(pieces, piece.Ok())
			continue
		}
		failure := piece.Err()
		if failure.Tag() == wasi_io_streams.StreamError_Closed {
			return bytes.Join(pieces, nil), nil
		}
		return nil, errors.New(failure.LastOperationFailed().ToDebugString())
	}
}

func respond(outparam *ResponseOutparam, text []byte) {
	headers := FieldsFromList([]Tuple2[string, []byte]{
		{F0: "content-type", F1: []byte("application/json")},
		{F0: "content-length", F1: fmt.Append(nil, len(text))},
	}).Ok()

	// Status 200 is what a new response has.
	response := MakeOutgoingResponse(headers)
	body := response.Body().Ok()
	ResponseOutparamSet(outparam, Ok[*OutgoingResponse, ErrorCode](response))

	// If it fails the client has gone: a body that is dropped without finish
	// cannot pass for a whole one.
	if send(body, text) {
		OutgoingBodyFinish(body, None[*Fields]())
	} else {
		body.Drop()
	}
}

func send(body *OutgoingBody, text []byte) bool {
	stream := body.Write().Ok()
	defer stream.Drop()
	for len(text) > 0 {
		// This call takes 4096 bytes at most.
		size := min(len(text), 4096)
		if stream.BlockingWriteAndFlush(text[:size]).IsErr() {
			return false
		}
		text = text[size:]
	}
	return true
}
