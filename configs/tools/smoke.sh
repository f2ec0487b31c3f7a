#!/bin/sh
# Asks a running installation the few questions whose wrong answers mean that a
# deployment has to go back: is it there and ready, does it refuse whom it does not
# know, is it the version that was meant. It changes nothing and needs no account.
#
#   BASE_URL=https://api.example.com VERSION=v1.2.3 configs/tools/smoke.sh
#
# Settings, all from the environment:
#   BASE_URL     where it is, without a slash at the end
#   VERSION      the version that must answer; empty: any
#   METRICS_URL  where /metrics is when it is not below BASE_URL
#   ATTEMPTS     how often readiness is asked, 2 s apart; 30 unless told
set -eu

: "${BASE_URL:?set BASE_URL, as in make smoke BASE_URL=http://127.0.0.1:8080}"
VERSION=${VERSION:-}
METRICS_URL=${METRICS_URL:-$BASE_URL/metrics}
ATTEMPTS=${ATTEMPTS:-30}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

# ask METHOD PATH prints the status; the answer is left in $folder.
ask() {
    status=$(curl -sS -X "$1" -o "$folder/body" -D "$folder/head" -w '%{http_code}' \
        --connect-timeout 5 --max-time 15 "$BASE_URL$2" 2>"$folder/error") ||
        { status=000; cp "$folder/error" "$folder/body"; }
    echo "$status"
}

good() { printf '  ok    %s\n' "$1"; }
bad() { printf '  FAIL  %s\n' "$1"; failed=1; }

# expect STATUS METHOD PATH
expect() {
    got=$(ask "$2" "$3")
    if [ "$got" = "$1" ]; then good "$2 $3 answers $1"; else bad "$2 $3 answers $got, want $1"; fi
}

echo "Smoke test of $BASE_URL"

left=$ATTEMPTS
until [ "$(ask GET /readyz)" = 200 ]; do
    left=$((left - 1))
    if [ "$left" -le 0 ]; then
        bad "GET /readyz does not answer 200: $(head -c 300 "$folder/body" 2>/dev/null || true)"
        exit 1
    fi
    sleep 2
done
good "GET /readyz answers 200"
case $(cat "$folder/body") in
*degraded*) bad "it is degraded: $(head -c 300 "$folder/body")" ;;
esac

expect 200 GET /healthz
expect 200 GET '/readyz?plane=control'
expect 200 GET /.well-known/jwks.json

# Nobody gets in without a credential, and is told how to get in.
for path in /users/me /api-keys; do
    expect 401 GET "$path"
    grep -qi '^www-authenticate: bearer' "$folder/head" || bad "GET $path does not say WWW-Authenticate: Bearer"
    grep -qi '^content-type: application/problem+json' "$folder/head" || bad "GET $path is not application/problem+json"
done

if [ -n "$VERSION" ]; then
    status=$(curl -sS -o "$folder/metrics" -w '%{http_code}' --connect-timeout 5 --max-time 15 "$METRICS_URL" 2>/dev/null) || status=000
    running=$(sed -n 's/^keywarden_build_info{\(.*,\)\{0,1\}version="\([^"]*\)".*/\2/p' "$folder/metrics" 2>/dev/null | head -n 1)
    case $status in
    200)
        if [ "$running" = "$VERSION" ]; then good "it is version $VERSION"; else bad "it is version ${running:-unknown}, want $VERSION"; fi ;;
    401 | 403 | 404) echo "  --    version not checked: $METRICS_URL answers $status; set METRICS_URL to where the metrics are" ;;
    *) bad "$METRICS_URL answers $status" ;;
    esac
fi

[ "$failed" = 0 ] && echo "All of it is well."
exit "$failed"
