
build=$PWD/.build

# Prints the path of program $1, of version $2 of package $3, which is installed if it
# is not there; the rest are arguments of cargo.
tool() {
    program=$1 version=$2 package=$3
    shift 3
    if [ ! -x "$build/tools/bin/$program" ]; then
        cargo install --quiet --locked --root "$build/tools" "$@" "$package@$version" >&2
    fi
    echo "$build/tools/bin/$program"
}

# Prints the folder of package $1 of version $2, with its files.
package() {
    if [ ! -d "$build/vendor/$1-$2" ]; then
        mkdir -p "$build/crate"
        printf '%s\n' '[package]' 'name = "needs"' 'version = "0.0.0"' 'edition = "2021"' \
            '[lib]' 'path = "/dev/null"' '[dependencies]' "$1 = \"=$2\"" '[workspace]' \
            >"$build/crate/Cargo.toml"
        rm -f "$build/crate/Cargo.lock"
        (cd "$build/crate" && cargo vendor --quiet --versioned-dirs --no-delete ../vendor >/dev/null)
    fi
    echo "$build/vendor/$1-$2"
}

# Makes the component $2 of the core module $1, which has the type of one in it.
component() {
    adapter=$(package wasi-preview1-component-adapter-provider @ADAPTER@)
    "$wasm_tools" component new "$1" -o "$2" \
        --adapt "wasi_snapshot_preview1=$adapter/artefacts/wasi_snapshot_preview1.reactor.wasm"
}

wit_bindgen=${WIT_BINDGEN:-$(tool wit-bindgen @WIT_BINDGEN@ wit-bindgen-cli \
    --no-default-features --features c,go)}
wasm_tools=${WASM_TOOLS:-$(tool wasm-tools @WASM_TOOLS@ wasm-tools \
    --no-default-features --features component)}
