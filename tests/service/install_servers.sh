#!/usr/bin/env bash
# Installs the Debian packages that the tests of services use, those of them that are absent.
# Without one of them its tests are skipped, with the reason.
set -euo pipefail

absent=()
need() { # need PACKAGE PROGRAM_OR_PATTERN...
    local package=$1 each
    shift
    for each in "$@"; do
        if command -v "$each" >/dev/null || compgen -G "$each" >/dev/null; then return; fi
    done
    absent+=("$package")
}
need bubblewrap bwrap
need mariadb-server mariadbd /usr/sbin/mariadbd
need postgresql pg_ctl '/usr/lib/postgresql/*/bin/pg_ctl'
if ((${#absent[@]} == 0)); then exit 0; fi

echo "installing ${absent[*]}"
as_root=()
if [[ $(id -u) != 0 ]]; then as_root=(sudo -n); fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${absent[@]}" >/dev/null
