#!/bin/sh
# install-conf.sh FILE DIR - at `meson install`: puts the commented settings there unless the administrator has some already.
set -eu
to=${DESTDIR-}$2/$(basename "$1")
[ -e "$to" ] || install -D -m 644 "$1" "$to"
