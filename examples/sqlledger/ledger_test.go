package sqlledger_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/examples/sqlledger"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/nodetest"
	"github.com/musterhq/muster/node/upgrade"
)

// postgres starts a server that ends with the test. Without Debian's package postgresql the test
// is skipped, unless MUSTER_REQUIRE_POSTGRES is set.
func postgres(t *testing.T) *sql.DB {
	t.Helper()
	programs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(programs) == 0 {
		if os.Getenv("MUSTER_REQUIRE_POSTGRES") != "" {
			t.Fatal("there is no PostgreSQL: install the package postgresql")
		}
		t.Skip("there is no PostgreSQL: install the package postgresql")
	}
	bin := slices.Max(programs)
	dir, err := os.MkdirTemp("", "muster-postgres-") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data := filepath.Join(dir, "data")
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // which the server refuses to be
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = as, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	var log bytes.Buffer
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	server.SysProcAttr, server.Dir, server.Stderr = as, dir, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGQUIT)
		server.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	db, err := sql.Open("pgx", "host="+dir+" user=postgres dbname=postgres")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if err = db.PingContext(t.Context()); err == nil {
			return db
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not answer: %v", err)
		}
	}
}

func open(t *testing.T, db *sql.DB) *sqlledger.Ledger {
	t.Helper()
	l, err := sqlledger.New(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCompareAndSet(t *testing.T) {
	l := open(t, postgres(t))
	ctx := t.Context()
	if _, err := l.Get(ctx, "k"); !errors.Is(err, discovery.ErrNotFound) {
		t.Errorf("no record: %v", err)
	}
	rev, err := l.Set(ctx, "k", []byte("a"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, prev := range []node.Revision{0, rev + 1} {
		if _, err := l.Set(ctx, "k", []byte("b"), prev); !errors.Is(err, discovery.ErrConflict) {
			t.Errorf("on top of %d: %v", prev, err)
		}
	}
	next, err := l.Set(ctx, "k", []byte("c"), rev)
	if r, getErr := l.Get(ctx, "k"); err != nil || getErr != nil || string(r.Value) != "c" || r.Revision != next || next == rev {
		t.Errorf("%+v, %v, %v", r, err, getErr)
	}
}

// Of all who write at once one does.
func TestOneOfManyWrites(t *testing.T) {
	db := postgres(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	wrote := 0
	for i := range 20 {
		wg.Go(func() {
			l, err := sqlledger.New(t.Context(), db)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = l.Set(t.Context(), "k", fmt.Append(nil, i), 0)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				wrote++
			} else if !errors.Is(err, discovery.ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wrote != 1 {
		t.Errorf("%d wrote", wrote)
	}
}

func insert(row string) func(context.Context, node.Term) error {
	return func(ctx context.Context, _ node.Term) error {
		_, err := sqlledger.Tx(ctx).ExecContext(ctx, `INSERT INTO rows VALUES ($1)`, row)
		return err
	}
}

func rows(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM rows`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Five nodes migrate one database. The first master is cut off in the middle of the second step,
// after it has inserted its row: that is not committed, and the step runs again, once.
func TestMigration(t *testing.T) {
	db := postgres(t)
	l := open(t, db)
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE rows (name text PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	cluster := nodetest.Start(t, 5)
	began, release := make(chan struct{}, 5), make(chan struct{})
	var once sync.Once
	steps := []upgrade.Step{
		{Name: "schema", Version: "1", Run: insert("one")},
		{Name: "schema", Version: "2", Run: func(ctx context.Context, term node.Term) error {
			err := insert("two")(ctx, term)
			once.Do(func() {
				began <- struct{}{}
				<-release
			})
			return err
		}},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for _, n := range cluster.Nodes() {
		running.Go(func() { upgrade.Run(ctx, n, l, steps...) })
	}
	<-began
	master := cluster.Master()
	last, _ := master.Master()
	restore := cluster.CutOff(master)
	cluster.MasterAbove(last.Term)
	close(release)
	restore()
	wait, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if err := upgrade.Wait(wait, l, "schema", "2"); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, db); n != 2 {
		t.Errorf("%d rows", n)
	}
}

// A step that fails has changed nothing.
func TestFailedStepIsRolledBack(t *testing.T) {
	db := postgres(t)
	l := open(t, db)
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE rows (name text PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		upgrade.Run(ctx, nil, l, upgrade.Step{Name: "schema", Version: "1", Run: func(ctx context.Context, term node.Term) error {
			return errors.Join(insert("one")(ctx, term), errors.New("and then it fails"))
		}})
	}()
	wait, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var failed *upgrade.FailedError
	if err := upgrade.Wait(wait, l, "schema", "1"); !errors.As(err, &failed) {
		t.Errorf("the gate: %v", err)
	}
	if n := rows(t, db); n != 0 {
		t.Errorf("%d rows", n)
	}
	cancel()
	<-ended
}
