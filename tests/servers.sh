# shellcheck shell=bash
# Runs the tests of the store and of what callers see on other servers than the system's Redis. Sourced by
# tests/run. What a server lacks is listed and counted.

# The end-to-end tests in which the server's kind can make a difference, by the begin of their names.
store_tests=(admin:: answers::store:: faults::absence:: faults::kills:: faults::layout:: faults::marks::
    harness:: mark_read:: permissions:: placement:: rare_marks:: read_side::batches:: read_side::buckets::
    read_side::pages:: read_side::states:: read_side::stores:: read_side::watch:: redis_access::
    redis_stats:: relay_store:: stores:: stream_bound:: twins:: users::)

# What the server of PyPI was built without.
valkey9_lacks=(redis_access::redis_over_tls_is_verified_and_sees_a_certificate)

# run_on_server NAME SERVER TEST…: runs the tests of the store on a server, but for those that need what it
# lacks.
run_on_server() {
    # Clusters of Redis 7 are in the part `tests`: all of them on each server would take minutes more.
    local name=$1 server=$2 lacking skip=(--skip ::cluster:: --skip the_embedded_store_and_a_cluster)
    shift 2
    for lacking in "$@"; do skip+=(--skip "$lacking"); done
    printf '\n--- %s, %d tests left out%s\n' "$name" $# "${*:+: it lacks what they need: $*}"
    MARKREAD_TEST_REDIS_SERVER=$server cargo test --locked --workspace --no-fail-fast --test it -- \
        --test-threads=3 "${store_tests[@]}" "${skip[@]}"
}

# Runs the tests of the store on all servers at the same time, since tests wait more than they work. All run,
# whichever fails.
run_on_servers() {
    local failed=0 logs process processes=()
    install_for_tests
    install_servers
    build_tests
    logs=$(mktemp -d)
    run_on_server "Redis 8" "$MARKREAD_TEST_REDIS8" >"$logs/1" 2>&1 & processes+=($!)
    run_on_server "Valkey 8" "$MARKREAD_TEST_VALKEY8" >"$logs/2" 2>&1 & processes+=($!)
    run_on_server "Valkey 9" "$MARKREAD_TEST_VALKEY9" "${valkey9_lacks[@]}" >"$logs/3" 2>&1 & processes+=($!)
    for process in "${processes[@]}"; do wait "$process" || failed=1; done
    cat "$logs"/*
    rm -r "$logs"
    return "$failed"
}

# Runs a cluster under load, one test at a time: they have limits of time.
run_cluster_tests() {
    install_for_tests
    install_servers
    cargo test --locked --workspace --no-fail-fast --test cluster -- --test-threads=1 --nocapture
}
