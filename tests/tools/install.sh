# shellcheck shell=bash
# Functions that install the programs of tests and checks. Sourced at the root of the repository.
#
# Debian packages are installed if their commands are missing. Everything else goes to target/tools
# and is reinstalled when its pins change.

tools="$PWD/target/tools"

# need COMMAND WHAT: fails if a program is missing that this script does not install.
need() {
    command -v "$1" >/dev/null || { echo "$0 needs $2: \`$1\` is not in PATH" >&2; return 1; }
}

# install_packages WHY PACKAGE…: installs Debian packages.
install_packages() {
    local why=$1 as_root=()
    shift
    command -v apt-get >/dev/null ||
        { echo "$0 needs $* ($why): install them, since apt-get is not in PATH" >&2; return 1; }
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    echo "install: Debian's $*, $why (up to a minute)"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@"
}

# install_commands WHY COMMAND[=PACKAGE]…: installs the Debian packages whose commands are missing.
install_commands() {
    local why=$1 entry missing=()
    shift
    for entry in "$@"; do
        command -v "${entry%=*}" >/dev/null || missing+=("${entry#*=}")
    done
    [ ${#missing[@]} -eq 0 ] || install_packages "$why" "${missing[@]}"
}

# install NAME WHY PINS… -- COMMAND…: runs COMMAND, which fills $tools/NAME, unless it has done so for
# the same PINS (files or texts).
install() {
    local name=$1 why=$2 pin pins=""
    shift 2
    while [ "$1" != -- ]; do
        pin=$1
        [ ! -f "$pin" ] || pin=$(cat "$pin")
        pins+="$pin"$'\n'
        shift
    done
    shift
    printf %s "$pins" | cmp -s - "$tools/$name/pins" && return
    echo "install: $name, $why"
    rm -rf "${tools:?}/$name"
    mkdir -p "$tools/$name"
    "$@"
    printf %s "$pins" >"$tools/$name/pins"
}

# build_go MODULE NAME=PACKAGE…: builds programs as $tools/NAME, in the versions of MODULE's go.mod.
build_go() {
    local module=$1 program
    shift
    for program in "$@"; do
        (cd "$module" && go build -o "$tools/${program%%=*}" "${program#*=}")
    done
}

# Installs the grpcurl of tests/tools/go.mod.
install_grpcurl() {
    need go "Go 1.24 or later, to build grpcurl"
    install grpcurl "for tests that call the server (1 min)" \
        tests/tools/go.mod tests/tools/go.sum -- \
        build_go tests/tools grpcurl/grpcurl=github.com/fullstorydev/grpcurl/cmd/grpcurl
}

# Installs the h2spec of tests/tools/h2spec/go.mod.
install_h2spec() {
    need go "Go 1.24 or later, to build h2spec"
    install h2spec "the conformance test of HTTP/2 (10 s)" \
        tests/tools/h2spec/go.mod tests/tools/h2spec/go.sum -- \
        build_go tests/tools/h2spec h2spec/h2spec=github.com/summerwind/h2spec/cmd/h2spec
}

# Installs the toxiproxy of tests/tools/toxiproxy/go.mod.
install_toxiproxy() {
    need go "Go 1.24 or later, to build toxiproxy"
    install toxiproxy "a proxy that delays, cuts and goes silent, for faults (30 s)" \
        tests/tools/toxiproxy/go.mod tests/tools/toxiproxy/go.sum -- \
        build_go tests/tools/toxiproxy toxiproxy/toxiproxy=github.com/Shopify/toxiproxy/v2/cmd/server
}

# Installs both helms and helm-docs of tests/tools/helm/go.mod.
install_helm() {
    need go "Go 1.26 or later, to build helm"
    install helm "versions 3 and 4, both of which the chart supports (4 min)" \
        tests/tools/helm/go.mod tests/tools/helm/go.sum -- \
        build_go tests/tools/helm helm/helm3=helm.sh/helm/v3/cmd/helm \
        helm/helm4=helm.sh/helm/v4/cmd/helm helm/helm-docs=github.com/norwoodj/helm-docs/cmd/helm-docs
}

# Builds the collector with its own builder, whose log is printed if it fails.
build_collector() {
    cp tests/tools/otelcol.yaml "$tools/otelcol/config.yaml"
    (cd "$tools/otelcol" && go run go.opentelemetry.io/collector/cmd/builder@v0.165.0 \
        --config=config.yaml >log 2>&1) || { cat "$tools/otelcol/log" >&2; return 1; }
}

# Installs the OpenTelemetry Collector of tests/tools/otelcol.yaml.
install_collector() {
    need go "Go 1.24 or later, to build the OpenTelemetry Collector"
    install otelcol "the OpenTelemetry Collector, for tests of traces (2.5 min)" \
        tests/tools/otelcol.yaml -- build_collector
}

# build_python NAME PINS: creates a virtual environment in $tools/NAME with the packages of a file.
build_python() {
    python3 -m venv "$tools/$1"
    "$tools/$1/bin/pip" install -q --disable-pip-version-check -r "$2"
}

# install_python NAME WHY PINS: installs Python packages.
install_python() {
    python3 -c 'import ensurepip, venv' 2>/dev/null ||
        install_packages "for tests in Python" python3 python3-venv
    install "$1" "$2" "$3" -- build_python "$1" "$3"
}

# build_node NAME FOLDER: fills $tools/NAME with the packages of a folder's package-lock.json.
build_node() {
    cp "$2"/package.json "$2"/package-lock.json "$2"/.npmrc "$tools/$1/"
    npm ci --prefix "$tools/$1" --ignore-scripts --no-audit --no-fund --loglevel=error
}

# install_node NAME WHY FOLDER: installs Node packages.
install_node() {
    install_commands "for $1" node=nodejs npm
    install "$1" "$2" "$3"/package-lock.json -- build_node "$1" "$3"
}

# build_cargo NAME VERSION: builds a command of cargo without optimizations, in half of the time.
build_cargo() { cargo install --quiet --locked --debug --root "$tools/$1" "$1@$2"; }

# Installs cargo-deny.
install_cargo_deny() {
    local version=0.20.2
    install cargo-deny "to check advisories, licenses, duplicates and sources of dependencies (2 min)" \
        "$version" -- build_cargo cargo-deny "$version"
}

# Installs cargo-cyclonedx.
install_cargo_cyclonedx() {
    local version=0.5.9
    install cargo-cyclonedx "which writes the SBOM (1 min)" \
        "$version" -- build_cargo cargo-cyclonedx "$version"
}

# build_cargo_mutants VERSION: builds cargo-mutants without optimizations, in half of the time.
build_cargo_mutants() {
    cargo install --quiet --locked --debug --root "$tools/cargo-mutants" "cargo-mutants@$1"
}

# Installs cargo-mutants.
install_cargo_mutants() {
    local version=27.1.0
    install cargo-mutants "which changes functions and expects tests to fail (3 min)" \
        "$version" -- build_cargo_mutants "$version"
}
