#!/bin/sh
# Builds @NAME@.wasm. Needs a clang with a sysroot for WASI, and Rust, whose cargo gets
# the rest:
#
#   apt install clang lld wasi-libc libclang-rt-dev-wasm32 cargo
#
#   CLANG   another clang, as that of wasi-sdk
#   WIT_BINDGEN, WASM_TOOLS   ready programs

set -eu
cd "$(dirname "$0")"
@TOOLS@
rm -rf .build/bindings
"$wit_bindgen" c wit --world service --out-dir .build/bindings
"${CLANG:-clang}" --target=wasm32-wasi -mexec-model=reactor -O2 -Wall -Wextra -Wl,--strip-all \
    -I.build/bindings ./*.c .build/bindings/service.c .build/bindings/service_component_type.o \
    -o .build/core.wasm
component .build/core.wasm "@NAME@.wasm"
