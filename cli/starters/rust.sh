#!/bin/sh
# Builds @NAME@.wasm. Needs Rust with the target wasm32-wasip2:
#
#   rustup target add wasm32-wasip2

set -eu
cd "$(dirname "$0")"

cargo build --release --target wasm32-wasip2
library=$(echo "@NAME@" | tr - _)
cp "${CARGO_TARGET_DIR:-target}/wasm32-wasip2/release/$library.wasm" "@NAME@.wasm"
