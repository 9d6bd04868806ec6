// etcd's own server, built from the module that go.mod names: the opponent of `peers -- etcd`, `diff` and
// tests/etcdctl/compare.py. etcdctl and etcdutl are built from the same go.mod, where they are `tool`s.
// How and where to: tests/etcdctl/opponent.py.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
