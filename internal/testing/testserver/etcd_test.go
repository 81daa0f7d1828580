package testserver

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/internal/testing/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(Main(m)) }

func TestEtcdKeepsItsDataAndAddress(t *testing.T) {
	e := StartEtcd(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := e.Client().Put(ctx, "key", "value"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){e.Kill, e.Stop, func() {}} {
		at := e.Endpoint()
		end()
		e.Restart()
		if e.Endpoint() != at {
			t.Fatalf("moved from %s to %s", at, e.Endpoint())
		}
		r, err := e.Client().Get(ctx, "key")
		if err != nil || r.Count != 1 {
			t.Fatalf("Get after a restart = %v, %v, want the key", r, err)
		}
	}
	e.Wipe()
	e.Restart()
	if r, err := e.Client().Get(ctx, "key"); err != nil || r.Count != 0 {
		t.Fatalf("Get after a wipe = %v, %v, want nothing", r, err)
	}
}

func TestEtcdPause(t *testing.T) {
	e := StartEtcd(t)
	e.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := e.Client().Get(ctx, "key"); err == nil {
		t.Error("a paused server answered")
	}
	e.Resume()
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := e.Client().Get(ctx, "key"); err != nil {
		t.Errorf("after Resume: %v", err)
	}
}

func TestEtcdWithTLSAndAuth(t *testing.T) {
	e := StartEtcd(t, WithTLS(NewCA(t)), WithAuth())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e.AddUser("app", "app-secret", "/app/")
	if r, err := e.Client().UserList(ctx); err != nil || len(r.Users) != 2 {
		t.Fatalf("users = %v, %v, want two", r, err)
	}
}

func TestSharedEtcdIsOne(t *testing.T) {
	if a, b := SharedEtcd(t), SharedEtcd(t); a != b {
		t.Errorf("two shared servers: %s and %s", a.Endpoint(), b.Endpoint())
	}
}

func TestEtcdEndsWithItsTest(t *testing.T) {
	var e *Etcd
	t.Run("inner", func(t *testing.T) { e = StartEtcd(t) })
	if over, _ := e.process.Ended(); !over {
		t.Error("the server outlives its test")
	}
	if _, err := os.Stat(e.home); !os.IsNotExist(err) {
		t.Errorf("its files are left behind in %s", e.home)
	}
}

func TestEtcdBackup(t *testing.T) {
	t.Parallel()
	e := StartEtcd(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	put := func(key string) {
		if _, err := e.Client().Put(ctx, key, "value"); err != nil {
			t.Fatal(err)
		}
	}
	put("a")
	backup := e.Backup()
	put("b")
	for range 2 {
		e.RestoreBackup(backup)
		r, err := e.Client().Get(ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil || r.Count != 1 || string(r.Kvs[0].Key) != "a" {
			t.Fatalf("Get = %v, %v, want what there was at the backup", r, err)
		}
		put("c")
	}
}

func TestEtcdCluster(t *testing.T) {
	t.Parallel()
	servers := StartEtcdCluster(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leader := func() (leader *Etcd) {
		wait.For(t, "a server leads", func() bool {
			i := slices.IndexFunc(servers, (*Etcd).IsLeader)
			if i >= 0 {
				leader = servers[i]
			}
			return i >= 0
		})
		return leader
	}
	old := leader()
	if _, err := old.Client().Put(ctx, "key", "value"); err != nil {
		t.Fatal(err)
	}
	old.Kill()
	next := leader()
	if next == old {
		t.Fatal("the dead server leads")
	}
	if r, err := next.Client().Get(ctx, "key"); err != nil || r.Count != 1 {
		t.Errorf("Get = %v, %v, want the key", r, err)
	}
	old.Restart()
}
