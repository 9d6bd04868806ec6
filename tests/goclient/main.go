// Puts, reads, watches and leases with etcd's Go client 3.5.0, which sends `#initially=[…]` as its
// `:authority`: a server that refuses unusual ones is closed to whatever pins that release.
//
//	goclient ENDPOINT...
//
// Ends with `N passed, N failed`; exits 1 on a failure. Run by tests/etcdctl/targets.py.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func main() {
	passed, failed := 0, 0
	check := func(name string, err error) {
		if err != nil {
			failed++
			fmt.Printf("FAIL go client 3.5.0: %s: %v\n", name, err)
			return
		}
		passed++
		fmt.Printf("ok   go client 3.5.0: %s\n", name)
	}
	run(check)
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(check func(string, error)) {
	client, err := clientv3.New(clientv3.Config{Endpoints: os.Args[1:], DialTimeout: 5 * time.Second})
	check("connect", err)
	if err != nil {
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	events := client.Watch(ctx, "go/", clientv3.WithPrefix())
	lease, err := client.Grant(ctx, 60)
	check("grant a lease", err)
	if err != nil {
		return
	}
	_, err = client.KeepAliveOnce(ctx, lease.ID)
	check("keep it alive", err)
	_, err = client.Put(ctx, "go/key", "value", clientv3.WithLease(lease.ID))
	check("put", err)
	got, err := client.Get(ctx, "go/key")
	if err == nil && (len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value") {
		err = fmt.Errorf("got %v", got.Kvs)
	}
	check("get what was put", err)
	select {
	case event := <-events:
		err = event.Err()
		if err == nil && len(event.Events) != 1 {
			err = fmt.Errorf("got %v", event)
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	check("watch it", err)
}
