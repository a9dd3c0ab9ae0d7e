# Short names for commands that CONTRIBUTING.md explains. The checks do not need `just`.

# The commands
default:
    @just --list

# Format and lint the Rust code
lint:
    cargo fmt --all
    cargo clippy --locked --workspace --all-targets -- -D warnings

# Run the fast lane, or its tests whose name contains FILTER
test *FILTER:
    tests/run {{FILTER}}

# Run all tests and checks, or one part, or the tests whose name contains FILTER
all *FILTER:
    tests/run all {{FILTER}}

# Measure: throughput beside gRPC and Redis themselves, or another of benches/
bench NAME="throughput":
    cargo bench --locked --bench {{NAME}}
