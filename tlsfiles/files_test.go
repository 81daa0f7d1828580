package tlsfiles_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/tlsfiles"
)

// files are those of a node, with an authority that signs for it.
type files struct {
	t  *testing.T
	ca *pki.Authority
	tlsfiles.Config
}

func newFiles(t *testing.T) *files {
	dir := t.TempDir()
	f := &files{t: t, Config: tlsfiles.Config{
		CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "node.pem"), KeyFile: filepath.Join(dir, "node-key.pem"),
	}}
	f.put(f.CAFile, f.newCA().Cert)
	f.putPair(f.issue(24 * time.Hour))
	return f
}

// newCA makes another authority, which signs from now on.
func (f *files) newCA() pki.Pair {
	f.t.Helper()
	ca, pair, err := pki.NewAuthority("authority", time.Now(), 1000*time.Hour)
	if err != nil {
		f.t.Fatal(err)
	}
	f.ca = ca
	return pair
}

func (f *files) issue(lifetime time.Duration) pki.Pair {
	f.t.Helper()
	pair, err := f.ca.Issue("node", []string{"127.0.0.1"}, time.Now(), lifetime)
	if err != nil {
		f.t.Fatal(err)
	}
	return pair
}

func (f *files) put(path string, data []byte) {
	f.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *files) putPair(p pki.Pair) {
	f.t.Helper()
	f.put(f.CertFile, p.Cert)
	f.put(f.KeyFile, p.Key)
}

func (f *files) live() *tlsfiles.Files {
	f.t.Helper()
	l, err := tlsfiles.Follow(f.Config, tlsfiles.Contents.Mutual)
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

func TestFilesKeepsTheLastGoodPair(t *testing.T) {
	f := newFiles(t)
	l := f.live()
	first, state := l.Current(), l.Check()
	if state.Reloads != 0 || state.Err != nil || time.Until(state.Expiry) > 24*time.Hour || time.Until(state.Expiry) < 23*time.Hour {
		t.Fatalf("at first: %+v", state)
	}

	// A new certificate whose key is not written yet.
	next := f.issue(48 * time.Hour)
	f.put(f.CertFile, next.Cert)
	state = l.Check()
	var wrong *driver.ConfigError
	if l.Current() != first || state.Reloads != 0 || !errors.As(state.Err, &wrong) || wrong.Key != "tls.key_file" {
		t.Errorf("with half a pair: %+v", state)
	}
	// Half of the key.
	f.put(f.KeyFile, next.Key[:len(next.Key)/2])
	if state = l.Check(); l.Current() != first || state.Err == nil {
		t.Errorf("with half a key: %+v", state)
	}
	// The whole.
	f.put(f.KeyFile, next.Key)
	state = l.Check()
	if l.Current() == first || state.Reloads != 1 || state.Err != nil || time.Until(state.Expiry) < 47*time.Hour {
		t.Errorf("with the new pair: %+v", state)
	}

	second := l.Current()
	for what, spoil := range map[string]func(){
		"no certificate":      func() { f.put(f.CertFile, nil) },
		"no file":             func() { _ = os.Remove(f.CertFile) },
		"no authority":        func() { f.put(f.CAFile, []byte("not PEM")) },
		"expired certificate": func() { f.putPair(f.issue(-time.Minute)) },
	} {
		ca, err := os.ReadFile(f.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		spoil()
		if state = l.Check(); l.Current() != second || state.Reloads != 1 || state.Err == nil {
			t.Errorf("%s: %+v", what, state)
		}
		// What was there is put back, which is no reload.
		f.put(f.CAFile, ca)
		f.putPair(next)
		if state = l.Check(); l.Current() != second || state.Reloads != 1 || state.Err != nil {
			t.Errorf("%s, and back: %+v", what, state)
		}
	}
}

// Half a bundle would be one with fewer authorities, and shut nodes out.
func TestFilesReadsBundlesWhole(t *testing.T) {
	f := newFiles(t)
	l := f.live()
	first := l.Current()
	old, err := os.ReadFile(f.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	fresh := f.newCA().Cert
	bundle := append(append(bytes.Clone(old), "# the next one\n"...), fresh...)
	f.put(f.CAFile, bundle[:len(bundle)-100])
	if state := l.Check(); l.Current() != first || state.Err == nil || !strings.Contains(state.Err.Error(), "cut short") {
		t.Errorf("half a bundle: %+v", state)
	}
	f.put(f.CAFile, bundle)
	if state := l.Check(); l.Current() == first || state.Err != nil {
		t.Errorf("the bundle: %+v", state)
	}
}

// A node whose certificate has ended takes whatever there is, and one that starts with
// such a certificate starts.
func TestFilesAtTheEndOfACertificate(t *testing.T) {
	f := newFiles(t)
	f.putPair(f.issue(-time.Minute))
	l := f.live()
	f.putPair(f.issue(-time.Second))
	if state := l.Check(); state.Reloads != 1 || state.Err != nil {
		t.Errorf("%+v", state)
	}
}

// Config looks by itself, but not each time, and returns one pointer until something
// has changed.
func TestFilesLooksWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t)
		l := f.live()
		first := l.Current()
		f.putPair(f.issue(time.Hour))
		if l.Current() != first {
			t.Error("looked within the second")
		}
		time.Sleep(time.Second)
		second := l.Current()
		if second == first {
			t.Error("did not look after a second")
		}
		time.Sleep(time.Second)
		if l.Current() != second {
			t.Error("another configuration although nothing has changed")
		}
	})
}

func TestFilesWatchSaysWhatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t)
		l := f.live()
		var log buffer
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { l.Watch(ctx, slog.New(slog.NewTextHandler(&log, nil))) })
		said := func(what string, n int) {
			t.Helper()
			time.Sleep(time.Minute)
			if got := strings.Count(log.String(), what); got != n {
				t.Errorf("%q was said %d times, want %d:\n%s", what, got, n, log.String())
			}
		}
		said("level", 0)
		next := f.issue(time.Hour)
		f.put(f.CertFile, next.Cert)
		said("certificates not reloaded", 1)
		f.put(f.KeyFile, next.Key)
		said("certificates reloaded", 1)
		said("files good again", 1)
		time.Sleep(time.Hour)
		said("expires soon or has expired", 1)
		cancel()
		wg.Wait()
	})
}

// Files that change while they are read, and back, are not taken for what they were in between.
func TestFilesThatChangeAndBackWhileTheyAreRead(t *testing.T) {
	f := newFiles(t)
	first, second := f.issue(24*time.Hour), f.issue(48*time.Hour)
	f.putPair(first)
	busy := false
	l, err := tlsfiles.Follow(f.Config, func(c tlsfiles.Contents) (*tls.Config, error) {
		if busy {
			f.putPair(first)
			defer f.putPair(second)
		}
		return c.Mutual()
	})
	if err != nil {
		t.Fatal(err)
	}
	busy = true
	f.putPair(second)
	for range 2 {
		if state := l.Check(); state.Err != nil || time.Until(state.Expiry) < 47*time.Hour {
			t.Errorf("the last pair is not in force: %+v", state)
		}
	}
}

// Handshakes while the files are written: always one pair or the other.
func TestFilesUnderLoad(t *testing.T) {
	f := newFiles(t)
	l := f.live()
	pairs := []pki.Pair{f.issue(time.Hour), f.issue(2 * time.Hour)}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 100 {
				if c := l.Current(); len(c.Certificates) != 1 || c.RootCAs == nil {
					t.Error("a configuration that is not whole")
					return
				}
				l.Check()
			}
		})
	}
	for i := range 50 {
		f.putPair(pairs[i%2])
	}
	wg.Wait()
	if state := l.Check(); state.Err != nil {
		t.Error(state.Err)
	}
	want, err := tls.X509KeyPair(pairs[1].Cert, pairs[1].Key)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Current().Certificates[0]; !bytes.Equal(got.Certificate[0], want.Certificate[0]) {
		t.Error("the last pair is not in force")
	}
}

type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
