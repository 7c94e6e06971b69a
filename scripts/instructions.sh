#!/usr/bin/env bash
# Counts the instructions of the main kernels (valgrind's callgrind, AVX2, one
# thread, small fixed inputs) and compares them with those committed in
# scripts/instructions.txt. A kernel that needs over 5 % more fails the check.
#
#   scripts/instructions.sh            check
#   scripts/instructions.sh --update   write the counts of this compiler down
#
# Counts depend on the compiler, so each line of the file names it; where there
# are none for this compiler, or no valgrind, the check says so and passes.
# What is counted is what a run costs beyond the first: the difference of two
# processes with different numbers of runs, so that starting up does not count.
set -euo pipefail
cd "$(dirname "$0")/.."

expected=scripts/instructions.txt
allowed=5
few=2
many=42

skip() {
    printf 'instructions: not counted: %s\n' "$1" >&2
    exit 0
}

command -v valgrind >/dev/null || skip "valgrind is not installed (Debian: apt-get install valgrind)"
[ "$(uname -sm)" = "Linux x86_64" ] || skip "the counts are those of Linux on x86-64"
grep -qw avx2 /proc/cpuinfo || skip "this processor has no AVX2"
compiler="$(rustc --version | cut -d ' ' -f 2)"
update=false
[ "${1:-}" = --update ] && update=true
if ! $update && ! grep -q "^$compiler " "$expected"; then
    skip "$expected has no counts for rustc $compiler; scripts/instructions.sh --update writes them"
fi

cargo build --release --locked --quiet --package sensorium-engine --example kernels
program=target/release/examples/kernels
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

count() { # NAME TIMES
    SENSORIUM_SIMD=avx2 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" \
        2>&1 >/dev/null | awk '/Collected/ { print $NF }' >"$scratch/$1.$2"
}
export -f count
export program scratch
# shellcheck disable=SC2016 # the inner shell expands them
"$program" | while read -r name; do printf '%s %s\n%s %s\n' "$name" "$few" "$name" "$many"; done |
    xargs -P "$(nproc)" -L 1 bash -c 'count "$1" "$2"' count

"$program" | while read -r name; do
    first="$(cat "$scratch/$name.$few")" last="$(cat "$scratch/$name.$many")"
    if [ -z "$first" ] || [ -z "$last" ]; then
        printf 'instructions: %s did not run under valgrind\n' "$name" >&2
        exit 1
    fi
    printf '%s %s %s\n' "$compiler" "$name" $(((last - first) / (many - few)))
done >"$scratch/counts"

if $update; then
    {
        if [ -f "$expected" ]; then grep -v "^$compiler " "$expected" || true; fi
        cat "$scratch/counts"
    } >"$scratch/new"
    mv "$scratch/new" "$expected"
    printf 'wrote %s\n' "$expected"
    exit 0
fi

awk -v allowed="$allowed" -v compiler="$compiler" '
    NR == FNR { if ($1 == compiler) before[$2] = $3; next }
    {
        if (!($2 in before)) { printf "%-16s %12d  is new: write it down with --update\n", $2, $3; bad = 1; next }
        change = 100 * ($3 / before[$2] - 1)
        note = ""
        if (change > allowed) { note = "  over " allowed " % more"; bad = 1 }
        if (change < -allowed) { note = "  fewer: write it down with --update" }
        printf "%-16s %12d %+7.1f %%%s\n", $2, $3, change, note
        delete before[$2]
    }
    END {
        for (name in before) { printf "%-16s is gone: write it down with --update\n", name; bad = 1 }
        exit bad
    }' "$expected" "$scratch/counts"
