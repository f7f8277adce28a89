#!/usr/bin/env bash
# Sends 10,000 odd payloads through the router to nginx, apache2, haproxy, node, gunicorn, waitress,
# aiohttp, an instance and a strict server of our own, and says what each of them saw. Installs what
# is missing (apt, and PyPI into the directory of builds). By hand; takes some minutes.
#
#   router/tests/desync/run.sh [PAYLOADS [SEED]]
#
# One of them again, at one server: DESYNC_NUMBER=17 DESYNC_ONLY=node router/tests/desync/run.sh
set -euo pipefail
cd "$(dirname "$0")/../../.."
missing=()
command -v nginx >/dev/null || missing+=(nginx-light)
command -v apache2 >/dev/null || missing+=(apache2-bin)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v node >/dev/null || missing+=(nodejs)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
export SQLX_OFFLINE=true
environment=${CARGO_TARGET_DIR:-target}/desync
[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check gunicorn waitress aiohttp
export DESYNC_PYTHON
DESYNC_PYTHON=$(realpath --no-symlinks "$environment")/bin/python
export DESYNC_PAYLOADS=${1:-10000} DESYNC_SEED=${2:-1}
cargo build --quiet -p tenant-app
exec cargo test --quiet -p router --test desync -- --ignored --nocapture ten_thousand
