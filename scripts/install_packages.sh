#!/usr/bin/env bash
# Installs the Debian 12 packages that the build and the tests need. Does nothing where all are
# there, so that it may run before every build, also without network or rights.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache mold pkg-config git python3
  libabsl-dev libdnnl-dev libcli11-dev nlohmann-json3-dev libeigen3-dev zlib1g-dev
  libonig-dev libutf8proc-dev libssl-dev
  libcurl4-openssl-dev libpugixml-dev libsqlite3-dev libhiredis-dev prometheus-cpp-dev
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libgtest-dev libgmock-dev libboost-context-dev libbenchmark-dev redis-server prometheus
  python3-yaml python3-grpcio iproute2
)

missing=()
for package in "${packages[@]}"; do
  # `dpkg -s` also succeeds for a package that was removed but left its settings behind.
  if ! dpkg -s "$package" 2>/dev/null | grep -q '^Status: install ok installed$'; then
    missing+=("$package")
  fi
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

echo "  installing ${#missing[@]} packages: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Run as root, since there is no sudo: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Hundreds of lines that nobody reads, unless it fails.
if ! {
  "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -q -y --no-install-recommends "${missing[@]}"
} >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "apt-get failed; install by hand: ${missing[*]}" >&2
  exit 1
fi
