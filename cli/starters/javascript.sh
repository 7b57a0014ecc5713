#!/bin/sh
# Builds @NAME@.wasm. Needs Node 20 or newer, and npm gets the rest:
#
#   apt install nodejs npm

set -eu
cd "$(dirname "$0")"

modules=.build/javascript
if [ ! -x "$modules/node_modules/.bin/componentize-js" ]; then
    mkdir -p "$modules"
    npm install --silent --no-fund --no-audit --prefix "$modules" \
        "@bytecodealliance/componentize-js@@COMPONENTIZE_JS@"
fi
"$modules/node_modules/.bin/componentize-js" app.js \
    --wit wit --world-name service --out "@NAME@.wasm"
