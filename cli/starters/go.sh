#!/bin/sh
# Builds @NAME@.wasm. Needs Go 1.27.1 or newer, and Rust, whose cargo gets the rest; no
# Go module is downloaded.
#
#   GO   another go
#   WIT_BINDGEN, WASM_TOOLS   ready programs

set -eu
cd "$(dirname "$0")"
@TOOLS@
go=${GO:-go}
runtime=$(package wit-bindgen-go @WIT_BINDGEN@)

rm -rf .build/go
"$wit_bindgen" go wit --world service --out-dir .build/go
cp -r export_wasi_http_incoming_handler .build/go
export GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local
(
    cd .build/go
    "$go" mod edit -go=1.27.1 -replace="go.bytecodealliance.org/pkg=$runtime/src/pkg"
    # The package looks into Go's runtime, for memory before that has started.
    GOOS=wasip1 GOARCH=wasm "$go" build -buildmode=c-shared -trimpath \
        -ldflags='-checklinkname=0 -s -w' -o "$build/core.wasm" .
)
"$wasm_tools" component embed --world service wit .build/core.wasm -o .build/embedded.wasm
component .build/embedded.wasm "@NAME@.wasm"
