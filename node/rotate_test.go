package node_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/tlsfiles"
)

// authority signs for the nodes of a test.
type authority struct {
	*pki.Authority
	cert []byte
}

func newAuthority(t testing.TB, name string) authority {
	t.Helper()
	a, pair, err := pki.NewAuthority(name, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return authority{a, pair.Cert}
}

// put writes the files of a node: what it trusts, and a new certificate.
func put(t testing.TB, files tlsfiles.Config, signer authority, trusted ...authority) {
	t.Helper()
	putNamed(t, files, "node", signer, trusted...)
}

// putNamed is put with a certificate of a node id.
func putNamed(t testing.TB, files tlsfiles.Config, nodeID string, signer authority, trusted ...authority) {
	t.Helper()
	var bundle []byte
	for _, a := range trusted {
		bundle = append(bundle, a.cert...)
	}
	if err := os.WriteFile(files.CAFile, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	pair, err := signer.Issue(nodeID, []string{"127.0.0.1"}, time.Now(), time.Hour)
	if err == nil {
		err = pair.Write(files.CertFile, files.KeyFile, true)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func tlsFiles(t testing.TB) tlsfiles.Config {
	dir := t.TempDir()
	return tlsfiles.Config{
		CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "node.pem"), KeyFile: filepath.Join(dir, "node-key.pem"),
	}
}

// The authority of a running cluster is changed, as docs/security.md has it: trust
// both, show the new certificates, trust the new one alone. Nobody is lost on the way
// and nobody has to be restarted; a node with the new authority is let in, and
// at the end one with the old authority is not.
func TestTheAuthorityOfARunningClusterIsChanged(t *testing.T) {
	t.Parallel()
	old, fresh := newAuthority(t, "old"), newAuthority(t, "new")
	c := newCluster(t)
	var files []tlsfiles.Config
	start := func(id string, signer authority, trusted ...authority) *node.Node {
		f := tlsFiles(t)
		put(t, f, signer, trusted...)
		files = append(files, f)
		return c.start(id, patient, expect(3), func(cfg *node.Config) { cfg.TLS = f })
	}
	for i := range 3 {
		start(fmt.Sprintf("node-%d", i), old, old)
	}
	c.waitMembers(3, c.nodes...)
	_, term := c.waitMaster(0, c.nodes...)

	// From here on nobody may go.
	ctx, cancel := context.WithCancel(t.Context())
	var watchers sync.WaitGroup
	for _, n := range c.nodes {
		watchers.Go(func() {
			for e := range n.Events(ctx) {
				if e.Kind == node.MemberFailed || e.Kind == node.MemberLeft {
					t.Errorf("%s: %s: %+v", n.ID(), e.Kind, e.Member)
				}
			}
		})
	}
	step := func(what string, signer authority, trusted ...authority) {
		t.Helper()
		before := make([]uint64, len(c.nodes))
		for i, n := range c.nodes {
			before[i] = n.Status().TLS.Reloads
			put(t, files[i], signer, trusted...)
		}
		for i, n := range c.nodes {
			wait.For(t, n.ID()+": "+what, func() bool {
				s := n.Status().TLS
				return s.Reloads > before[i] && s.Err == nil
			})
		}
	}
	step("trusts both", old, old, fresh)
	step("shows the new certificate", fresh, old, fresh)
	start("node-3", fresh, fresh)
	c.waitMembers(4, c.nodes...)
	step("trusts the new authority alone", fresh, fresh)
	start("node-4", fresh, fresh)
	c.waitMembers(5, c.nodes...)

	f := tlsFiles(t)
	put(t, f, old, old, fresh)
	members := c.nodes
	late := c.start("node-5", func(cfg *node.Config) { cfg.TLS = f })
	wait.For(t, "the one with the old authority is rejected", func() bool {
		return members[0].Status().Link.Rejected["bad_certificate"] > 1 && members[1].Status().Link.Rejected["bad_certificate"] > 1
	})
	if n := len(late.Members()); n != 1 {
		t.Errorf("it sees %d members, want itself alone", n)
	}
	if _, now := c.waitMaster(0, members...); now != term {
		t.Errorf("the term is %d, and was %d: mastership has moved", now, term)
	}
	cancel()
	watchers.Wait()
}
