#!/bin/sh
# Pushes IMAGE:VERSION as it is on this machine, so that what was scanned is what is
# pushed, and writes the digest that the registry gave it to DIST/image-digest: that is
# what is deployed, since a tag can be moved.
#
#   push.sh IMAGE VERSION DIST
#
# REGISTRY_USER and REGISTRY_PASSWORD, when set, log in for this push alone. With
# COSIGN_KEY (and COSIGN_PASSWORD) cosign signs the digest and attaches what make sbom
# and make image wrote: the SBOM and the provenance.
set -eu

image=$1 version=$2 dist=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -n "${REGISTRY_USER:-}" ]; then
    # A login of its own: nothing stays behind in the home of whoever pushes.
    DOCKER_CONFIG=$work
    export DOCKER_CONFIG
    printf '%s' "${REGISTRY_PASSWORD:?}" | docker login --username "$REGISTRY_USER" --password-stdin "${image%%/*}"
fi

docker push "$image:$version"
reference=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image:$version" | grep "^$image@sha256:" | head -n 1)
[ -n "$reference" ] || { echo "the registry gave no digest for $image:$version" >&2; exit 1; }
mkdir -p "$dist"
printf '%s\n' "${reference#*@}" >"$dist/image-digest"
echo "pushed $reference"

if [ -z "${COSIGN_KEY:-}" ]; then
    echo "not signed: COSIGN_KEY is not set"
    exit 0
fi
if ! command -v cosign >/dev/null; then
    echo "not signed: cosign is not installed"
    exit 0
fi
cosign sign --yes --key "$COSIGN_KEY" "$reference"
[ ! -s "$dist/sbom.cdx.json" ] || cosign attest --yes --key "$COSIGN_KEY" --type cyclonedx --predicate "$dist/sbom.cdx.json" "$reference"
if command -v jq >/dev/null && jq -e '."buildx.build.provenance"' "$dist/image.json" >"$work/provenance.json" 2>/dev/null; then
    cosign attest --yes --key "$COSIGN_KEY" --type slsaprovenance02 --predicate "$work/provenance.json" "$reference"
fi
