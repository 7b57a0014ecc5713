# What the tools for guests have in common. Sourced, not run, in the
# repository's folder.
#
# A guest whose component is committed is a folder under example/ (or in a folder
# there, of which an application has several) or tests/guests/. Its component
# FOLDER.wasm lies beside the source, and component.sha256 ties the two together.
# One that is made to be composed names the folder of another guest in its setting
# `plug`; FOLDER-OTHER.wasm is both.

# What fails within $(...) ends that, too: otherwise a path is printed although the
# program there was not built. The caller has to take it by an assignment.
shopt -s inherit_errexit

debian_packages=rustc,cargo,libstd-rust-dev-wasm32,lld,gcc,libc6-dev,ca-certificates
debian_packages+=,clang,wasi-libc,libclang-rt-dev-wasm32

wit_bindgen_version=0.63.0
oldest_go=1.27.1

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Folders of the Rust guests, one per line: each is a workspace of its own.
rust_guests() {
    local manifest
    for manifest in example/*/Cargo.toml example/*/*/Cargo.toml tests/guests/*/Cargo.toml; do
        [ -e "$manifest" ] && dirname "$manifest"
    done
}

# Folders of the guests in C, one per line.
c_guests() {
    echo example/c
    echo tests/guests/c-hello
}

# Folders of all guests whose component is committed, one per line.
committed_guests() {
    rust_guests
    c_guests
}

# Whether component $1, which is not committed, is newer than the sources of guest
# $2, the WIT and the tool that builds it.
up_to_date() {
    [ -e "$1" ] && [ -z "$(find "$2" wit "$0" tools/guests.sh -type f -newer "$1" \
        ! -name '*.md' ! -name config.json ! -path '*/__pycache__/*' -print -quit)" ]
}

# The value of key $2 of [package.metadata.component] of the guest in folder $1;
# of a list, its elements, one per line.
guest_setting() {
    local manifest=$1/Cargo.toml
    [ -e "$manifest" ] || return 0
    sed -n "s/^$2 = //p" "$manifest" | tr -d '[]"' | sed 's/, */\n/g'
}

# Files that decide what the component in folder $1 is, relative to it. What it
# takes from elsewhere in the repository is in its list `shared`.
guest_sources() (
    shopt -s nullglob
    local path paths=() shared plug
    shared=$(guest_setting "$1" shared)
    plug=$(guest_setting "$1" plug)
    cd "$1"
    [ -z "$plug" ] || shared+=" $plug/$(basename "$plug").wasm"
    for path in *.c Cargo.toml Cargo.lock src wit $shared; do
        [ -e "$path" ] && paths+=("$path")
    done
    find "${paths[@]}" -type f ! -name '*.md' | LC_ALL=C sort
)

# Components of the guest in folder $1, relative to it.
guest_components() {
    local name plug
    name=$(basename "$1")
    plug=$(guest_setting "$1" plug)
    echo "$name.wasm"
    [ -z "$plug" ] || echo "$name-$(basename "$plug").wasm"
}

# Prints the path of the Go on the PATH, if that is new enough.
go_on_path() {
    local version
    version=$(go version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p') || true
    [ -n "$version" ] || return 0
    ! printf '%s\n%s\n' "$oldest_go" "$version" | sort -CV || command -v go
}

# Whether the rustc on the PATH has the targets.
host_has_targets() {
    local target libraries
    for target in wasm32-wasip1 wasm32-wasip2; do
        libraries=$(rustc --print target-libdir --target "$target" 2>/dev/null) || return 1
        [ -d "$libraries" ] || return 1
    done
}

# Makes a Debian trixie root in $1 unless it is there already. It needs no
# network afterwards.
need_debian() {
    local root=$1
    local how="debootstrap --variant=minbase --include=$debian_packages trixie $root"
    [ "$(id -u)" -eq 0 ] || fail "only root can use the Debian root $root, made by: $how"
    if [ ! -e "$root/etc/debian_version" ]; then
        command -v debootstrap >/dev/null || fail "install debootstrap, or make $root by: $how"
        echo "making a Debian trixie root in $root" >&2
        debootstrap --variant=minbase --include="$debian_packages" trixie "$root" \
            ${GUEST_MIRROR:+"$GUEST_MIRROR"} >&2
    fi
    chroot "$root" dpkg-query --show ${debian_packages//,/ } >/dev/null ||
        fail "install these packages in $root, or remove it to have it made anew"
}

# Runs a command in the Debian root $1, with nothing of this environment.
# Debian's rustc has no linkers of its own for wasm.
in_debian() {
    local root=$1
    shift
    chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/build \
        CARGO_TARGET_WASM32_WASIP1_LINKER=wasm-ld \
        CARGO_TARGET_WASM32_WASIP2_LINKER=wasm-ld "$@"
}

# Prints the path of tools/componentize, built if need be.
componentize() {
    if [ -z "${COMPONENTIZE:-}" ]; then
        cargo build --quiet --release --locked --package componentize
    fi
    echo "${COMPONENTIZE:-${CARGO_TARGET_DIR:-target}/release/componentize}"
}

# Prints the path of program $1 of the package $2 in Cargo's registry, installed if
# need be; the rest are arguments of cargo.
cargo_tool() {
    local program=$1 package=$2
    shift 2
    cargo install --quiet --locked --root build/tools "$@" "$package" >&2
    echo "build/tools/bin/$program"
}

# Prints the path of wit-bindgen.
wit_bindgen() {
    local program=${WIT_BINDGEN:-}
    [ -n "$program" ] || program=$(cargo_tool wit-bindgen \
        wit-bindgen-cli@$wit_bindgen_version --no-default-features --features c,go)
    echo "$program"
}

# Makes folder $1 with the WIT of the guest in folder $2, and in deps/ all of WASI
# 0.2 that it can refer to.
guest_wit() {
    rm -rf "$1"
    mkdir -p "$1/deps"
    cp "$2"/wit/*.wit "$1"
    cp -r wit/deps/{cli,clocks,filesystem,http,io,random,sockets} "$1/deps"
}

# Puts the WIT of WASI 0.2, which the wasi crate carries, into folder $1.
wasi_wit() {
    local vendor
    vendor=$(mktemp -d)
    cargo vendor --locked --quiet --versioned-dirs \
        --manifest-path example/hello/Cargo.toml "$vendor" >/dev/null
    cp -r "$vendor"/wasi-*/wit/deps "$1"
    rm -rf "$vendor"
}

# Fails if a string of component $1 tells where it was built, given the other
# arguments as telling. The std of Debian has /usr/src/rustc-VERSION in it, on
# every machine.
refuse_machine_paths() {
    local component=$1 text path found
    shift
    text=$(strings -n 4 "$component" | sed 's:/usr/src/rustc-::g')
    for path in "$@" "$HOME/" "$PWD/" /root/ /home/ /usr/src/ /opt/ /tmp/; do
        if found=$(grep -F -e "$path" <<<"$text"); then
            fail "$component has the path $path in it: $found"
        fi
    done
}

# Writes the record of the guest in folder $1, built by compiler $2.
record_component() (
    local component components
    components=$(guest_components "$1")
    cd "$1"
    {
        echo "# $2"
        guest_sources . | xargs -d '\n' sha256sum
        xargs -d '\n' sha256sum <<<"$components"
    } >component.sha256
    for component in $components; do
        echo "$1/$component: $(stat -c %s "$component") bytes"
    done
)
