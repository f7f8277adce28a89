# Sourced by the scripts beside it: Postgres server binaries, and a server for the time of a script.
# shellcheck shell=bash

# Prints the newest directory of Postgres server binaries; fails when there is none.
postgres_bin() {
    local directory
    # A link beside other programs leads to where all of Postgres is.
    if directory=$(command -v initdb 2>/dev/null); then
        directory=$(dirname "$(readlink -f "$directory")")
        if [ -x "$directory/postgres" ]; then
            printf '%s\n' "$directory"
            return
        fi
    fi
    for directory in $(printf '%s\n' /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin \
        /usr/local/opt/postgresql*/bin | sort -rV); do
        if [ -x "$directory/initdb" ] && [ -x "$directory/postgres" ]; then
            printf '%s\n' "$directory"
            return
        fi
    done
    return 1
}

# Runs a command as a user that Postgres accepts: it refuses root.
as_unprivileged() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid postgres --regid postgres --clear-groups -- "$@"
    else
        "$@"
    fi
}

# Starts a server that lives in $1 and listens on a socket there only. Trusts everybody who reaches
# the socket.
postgres_start() {
    local directory=$1 bin
    bin=$(postgres_bin)
    [ "$(id -u)" != 0 ] || chown postgres "$directory"
    (cd "$directory" && as_unprivileged "$bin/initdb" -D "$directory/data" -U postgres -A trust \
        -E UTF8 --no-locale --no-sync >"$directory/initdb.log")
    (cd "$directory" && as_unprivileged "$bin/pg_ctl" -D "$directory/data" -w -s \
        -l "$directory/server.log" \
        -o "-k $directory -c listen_addresses='' -c fsync=off" start)
}

# Stops the server that lives in $1.
postgres_stop() {
    (cd "$1" && as_unprivileged "$(postgres_bin)/pg_ctl" -D "$1/data" -m immediate -s stop) || true
}
