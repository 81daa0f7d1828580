package driver

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// liveTLSInterval is how often the files are looked at while handshakes go on.
const liveTLSInterval = time.Second

// LiveTLS is a TLS configuration that follows its files, so that certificates and
// authorities are replaced without a restart. What cannot be used, such as a
// certificate whose key is not written yet, leaves the last good configuration in
// force; State says so. Connections that stand are not touched.
//
// It compares what the files hold and not their times, so that no change is missed
// however the files are replaced. All methods are safe for concurrent use.
type LiveTLS struct {
	files TLS
	build func() (*tls.Config, error)

	checking sync.Mutex // held while the files are read

	mu      sync.Mutex
	digest  [sha256.Size]byte
	config  *tls.Config
	state   TLSState
	checked time.Time
}

// TLSState is what a LiveTLS has in force.
type TLSState struct {
	// Expiry is the end of the certificate in force, zero where there is none.
	Expiry time.Time
	// Reloads counts the changes that came into force.
	Reloads uint64
	// Err is why the files as they are now are not in force, nil when they are.
	Err error
}

// attrs are those of a record.
func (s TLSState) attrs() []any {
	if s.Expiry.IsZero() {
		return nil
	}
	return []any{"expiry", s.Expiry}
}

// Live returns what follows the files of t, or the error of build if they are no
// good to begin with. build makes a configuration of the files as they are:
// t.MutualConfig, t.ClientConfig, or a function that does more. It is called again
// when they have changed, and the configurations that it returned are not changed
// afterwards.
func (t TLS) Live(build func() (*tls.Config, error)) (*LiveTLS, error) {
	l := &LiveTLS{files: t, build: build}
	l.digest = l.read()
	config, err := build()
	if err != nil {
		return nil, err
	}
	l.config, l.checked = config, time.Now()
	if leaf := leafOf(config); leaf != nil {
		l.state.Expiry = leaf.NotAfter
	}
	return l, nil
}

// Follows reports whether there are any files that may change.
func (l *LiveTLS) Follows() bool {
	return l.files.CAFile != "" || l.files.CertFile != "" || l.files.KeyFile != ""
}

// Config returns the configuration in force, the same pointer until another one is.
// It is meant to be called for each handshake, and looks at the files once a second
// at most. It reads them, and waits for nothing else: while one caller does, the
// others get what is in force.
func (l *LiveTLS) Config() *tls.Config {
	l.mu.Lock()
	due := time.Since(l.checked) >= liveTLSInterval
	l.mu.Unlock()
	if due && l.checking.TryLock() {
		l.check()
		l.checking.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.config
}

// Check looks at the files now and returns the state that it leads to. Call it on a
// timer, so that a fault is known before the next handshake.
func (l *LiveTLS) Check() TLSState {
	l.checking.Lock()
	defer l.checking.Unlock()
	l.check()
	return l.State()
}

// State returns what is in force without looking at the files.
func (l *LiveTLS) State() TLSState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// The pace of Watch: how often it looks, and how often it warns of a certificate
// that is about to end.
const (
	watchTLSInterval = 2 * time.Second
	warnTLSInterval  = 24 * time.Hour
)

// Watch looks at the files every few seconds until ctx ends, and writes to log what
// changes: certificates that came into force, and why others did not. It warns, once a
// day, of a certificate of whose life less than a tenth is left.
func (l *LiveTLS) Watch(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(watchTLSInterval)
	defer tick.Stop()
	var last TLSState
	var warned time.Time
	for {
		state := l.Check()
		if state.Reloads != last.Reloads {
			log.Info("certificates reloaded", state.attrs()...)
			warned = time.Time{}
		}
		if text(state.Err) != text(last.Err) {
			if state.Err != nil {
				log.Warn("certificates cannot be reloaded, the last good ones stay in use", "error", state.Err)
			} else {
				log.Info("the files of the certificates are good again", state.attrs()...)
			}
		}
		last = state
		if now := time.Now(); l.ends(now) && (warned.IsZero() || now.Sub(warned) >= warnTLSInterval) {
			log.Warn("the certificate is about to end or has ended; write a new one to its files", "expiry", state.Expiry)
			warned = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// ends reports whether less than a tenth of the life of the certificate is left.
func (l *LiveTLS) ends(now time.Time) bool {
	l.mu.Lock()
	leaf := leafOf(l.config)
	l.mu.Unlock()
	return leaf != nil && leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(leaf.NotBefore)/10
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// check needs l.checking.
func (l *LiveTLS) check() {
	digest := l.read()
	l.mu.Lock()
	l.checked = time.Now()
	settled := digest == l.digest && l.state.Err == nil
	before := leafOf(l.config)
	l.mu.Unlock()
	if settled {
		return
	}
	config, err := l.build()
	// The files may have changed between the two readings. What goes on changing is left
	// to the next look, which finds another digest than this one.
	for range 3 {
		again := l.read()
		if again == digest {
			break
		}
		digest = again
		config, err = l.build()
	}
	leaf := leafOf(config)
	if err == nil && usable(before, time.Now()) == nil {
		err = l.rejects(leaf)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Err = err
	if err != nil {
		return
	}
	if digest == l.digest {
		return // a fault that passed: the files are again those in force
	}
	l.digest, l.config = digest, config
	l.state.Reloads++
	l.state.Expiry = time.Time{}
	if leaf != nil {
		l.state.Expiry = leaf.NotAfter
	}
}

// rejects says why a certificate does not take the place of one that is good.
func (l *LiveTLS) rejects(leaf *x509.Certificate) error {
	if err := usable(leaf, time.Now()); err != nil {
		return &ConfigError{"tls.cert_file", l.files.CertFile, err.Error() + "; the one before it stays in use"}
	}
	return nil
}

func usable(leaf *x509.Certificate, now time.Time) error {
	switch {
	case leaf == nil:
		return nil
	case now.After(leaf.NotAfter):
		return fmt.Errorf("expired on %s", leaf.NotAfter.Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("not valid before %s", leaf.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// read returns a digest of what the files hold, or of why they cannot be read.
func (l *LiveTLS) read() [sha256.Size]byte {
	h := sha256.New()
	for _, path := range []string{l.files.CAFile, l.files.CertFile, l.files.KeyFile} {
		if path == "" {
			continue
		}
		f, err := os.Open(path)
		if err == nil {
			_, err = io.Copy(h, f)
			f.Close()
		}
		fmt.Fprintf(h, "\n%s: %v\n", path, err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// leafOf returns the certificate of this end, nil where there is none.
func leafOf(c *tls.Config) *x509.Certificate {
	if c == nil || len(c.Certificates) == 0 || len(c.Certificates[0].Certificate) == 0 {
		return nil
	}
	if leaf := c.Certificates[0].Leaf; leaf != nil {
		return leaf
	}
	leaf, err := x509.ParseCertificate(c.Certificates[0].Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}
