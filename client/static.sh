#!/bin/sh
# static.sh OUT OBJECT|ARCHIVE... - the static libtrims: one object in which every hidden symbol is local, so that linking
# it adds trims_* to a program's name space and nothing else, as the shared library does.
set -eu
out=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
${LD:-ld} -r -o "$dir/trims.o" "$@"
${OBJCOPY:-objcopy} --localize-hidden "$dir/trims.o"
rm -f "$out"
${AR:-ar} rcs "$out" "$dir/trims.o"
