# shellcheck shell=bash
# Runs the parts of a long check one after the other, and ends with a table of them. Sourced by the scripts.

# File in which the rows of the table are collected. A script that runs another one passes it on.
if [ -z "${MARKREAD_TEST_PARTS:-}" ]; then
    MARKREAD_TEST_PARTS=$(mktemp)
    export MARKREAD_TEST_PARTS
    trap 'rm -f "$MARKREAD_TEST_PARTS"' EXIT
    parts_owner=yes
fi
parts_failed=0

# row NAME SECONDS RESULT: adds a row to the table.
row() { printf '%-14s %5d s  %s\n' "$@" >>"$MARKREAD_TEST_PARTS"; }

# part NAME COMMAND…: runs a part. If it fails, the other parts still run, and the table says so, with the
# lines that name what failed.
part() {
    local name=$1 start=$SECONDS rows output tee tee_id status
    shift
    rows=$(wc -l <"$MARKREAD_TEST_PARTS")
    output=$(mktemp)
    printf '\n=== %s\n' "$name"
    # Not in a condition, where bash would not stop the part at its first error.
    set +e
    exec {tee}> >(exec tee "$output")
    tee_id=$!
    (set -e; "$@") >&"$tee" 2>&1 {tee}>&-
    status=$?
    set -e
    exec {tee}>&-
    # Not for ever: a process that a part has left behind keeps its output open.
    for _ in {1..50}; do kill -0 "$tee_id" 2>/dev/null || break; sleep 0.1; done
    if [ "$status" -eq 0 ]; then
        row "$name" $((SECONDS - start)) ok
    else
        parts_failed=1
        # A part that has parts of its own has told already.
        [ "$rows" -lt "$(wc -l <"$MARKREAD_TEST_PARTS")" ] || failures "$output" >>"$MARKREAD_TEST_PARTS"
        row "$name" $((SECONDS - start)) FAILED
        printf '\n=== %s FAILED with status %d\n' "$name" "$status" >&2
    fi
    rm -f "$output"
}

# failures FILE: the lines of an output that name what failed, in front of the part's row.
failures() {
    local line='^test .* FAILED$|^FAILED |panicked at|BROKEN$|^ *not so:|broke a limit|^(error|warning)(\[|:)'
    { grep -E -- "$line" "$1" || tail -n 5 "$1"; } | tail -n 30 | cut -c 1-200 | sed 's/^ */    /'
}

# skip NAME REASON: leaves a part out, and says so in the table.
skip() {
    printf '\n=== %s SKIPPED: %s\n' "$1" "$2"
    row "$1" 0 "SKIPPED: $2"
}

# finish: prints the table, unless the calling script does, and exits with status 1 if a part failed.
finish() {
    [ -z "${parts_owner:-}" ] || { echo && cat "$MARKREAD_TEST_PARTS"; }
    exit "$parts_failed"
}
