package tlsfiles

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// lookInterval is how often the files are looked at while handshakes go on.
const lookInterval = time.Second

// Files make a TLS configuration that follows its files, so that certificates and authorities
// are replaced without a restart. What cannot be used, such as a certificate whose key is not
// written yet, leaves the last good configuration in force; State says so. Open connections
// are not touched.
//
// It compares what the files hold and not their times, so that no change is missed
// however the files are replaced. All methods are safe for concurrent use.
type Files struct {
	files Config
	build func(Contents) (*tls.Config, error)

	checking sync.Mutex // held while the files are read

	mu      sync.Mutex
	digest  [sha256.Size]byte
	config  *tls.Config
	state   State
	checked time.Time
}

// State is what Files have in force.
type State = driver.TLSState

// certify sets the times of s to those of the certificate of c.
func certify(s *State, c *tls.Config) {
	s.NotBefore, s.Expiry = time.Time{}, time.Time{}
	if leaf := leafOf(c); leaf != nil {
		s.NotBefore, s.Expiry = leaf.NotBefore, leaf.NotAfter
	}
}

// ends reports whether less than a tenth of the life of the certificate is left.
func ends(s State, now time.Time) bool {
	return !s.Expiry.IsZero() && s.Expiry.Sub(now) < s.Expiry.Sub(s.NotBefore)/10
}

// attrs are those of a record.
func attrs(s State) []any {
	if s.Expiry.IsZero() {
		return nil
	}
	return []any{"expiry", s.Expiry}
}

// Follow returns the files of c, or the error of build if they cannot be used to begin with.
// build makes a configuration of what was read: [Contents.Client], [Contents.Mutual],
// [Contents.Server], or a function that does more. It reads none of the files itself, which may
// have changed again. It is called whenever they have changed, and the configurations that it
// returned are not changed afterwards.
func Follow(c Config, build func(Contents) (*tls.Config, error)) (*Files, error) {
	f := &Files{files: c, build: build}
	contents := c.Read()
	config, err := build(contents)
	if err != nil {
		return nil, err
	}
	f.digest, f.config, f.checked = contents.digest(), config, time.Now()
	certify(&f.state, config)
	return f, nil
}

// Follows reports whether there are any files that may change.
func (f *Files) Follows() bool {
	return f.files.CAFile != "" || f.files.CertFile != "" || f.files.KeyFile != ""
}

// Current returns the configuration in force, the same pointer until another one is.
// It is meant to be called for each handshake, and looks at the files once a second
// at most. It reads them, and waits for nothing else: while one caller does, the
// others get what is in force.
func (f *Files) Current() *tls.Config {
	f.mu.Lock()
	due := time.Since(f.checked) >= lookInterval
	f.mu.Unlock()
	if due && f.checking.TryLock() {
		f.check()
		f.checking.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.config
}

// Check looks at the files now and returns the state that it leads to. Call it on a
// timer, so that a fault is known before the next handshake.
func (f *Files) Check() State {
	f.checking.Lock()
	defer f.checking.Unlock()
	f.check()
	return f.State()
}

// State returns what is in force without looking at the files.
func (f *Files) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// The pace of Watch: how often it looks, and how often it warns of a certificate
// that is about to end.
const (
	watchInterval = 2 * time.Second
	warnInterval  = 24 * time.Hour
)

// The alarms that Watch reports, as package internal/alarm does for the layers
// above: each warning with an end, and both with the name.
const (
	alarmUnusable = "certificate_files_unusable"
	alarmExpires  = "certificate_expires"
)

// Watch is the function Watch with f.Check.
func (f *Files) Watch(ctx context.Context, log *slog.Logger) { Watch(ctx, log, f.Check) }

// Watch calls check, which looks at the files, every few seconds until ctx ends, and writes
// to log what changes: certificates that came into force, and why others did not. It warns,
// once a day, of a certificate of whose life less than a tenth is left.
func Watch(ctx context.Context, log *slog.Logger, check func() State) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var last State
	var warned time.Time
	for {
		state := check()
		if state.Reloads != last.Reloads {
			log.Info("certificates reloaded", attrs(state)...)
		}
		switch {
		case text(state.Err) == text(last.Err):
		case state.Err != nil:
			log.Warn("certificates not reloaded", "alarm", alarmUnusable, "error", state.Err, "hint", "the last good ones stay in use")
		default:
			log.Info("certificate files good again", append(attrs(state), "alarm", alarmUnusable)...)
		}
		last = state
		switch now := time.Now(); {
		case !ends(state, now):
			if !warned.IsZero() {
				log.Info("certificate no longer expires soon", "alarm", alarmExpires, "expiry", state.Expiry)
			}
			warned = time.Time{}
		case warned.IsZero() || now.Sub(warned) >= warnInterval:
			log.Warn("certificate expires soon or has expired", "alarm", alarmExpires, "expiry", state.Expiry, "hint", "write a new one to its files")
			warned = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// check needs f.checking.
func (f *Files) check() {
	contents := f.files.Read()
	digest := contents.digest()
	f.mu.Lock()
	f.checked = time.Now()
	settled := digest == f.digest && f.state.Err == nil
	before := leafOf(f.config)
	f.mu.Unlock()
	if settled {
		return
	}
	config, err := f.build(contents)
	leaf := leafOf(config)
	if err == nil && usable(before, time.Now()) == nil {
		err = f.rejects(leaf)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Err = err
	if err != nil {
		return
	}
	if digest == f.digest {
		return // a fault that passed: the files are again those in force
	}
	f.digest, f.config = digest, config
	f.state.Reloads++
	certify(&f.state, config)
}

// rejects says why a certificate does not take the place of one that is good.
func (f *Files) rejects(leaf *x509.Certificate) error {
	if err := usable(leaf, time.Now()); err != nil {
		return &driver.ConfigError{Key: "tls.cert_file", Value: f.files.CertFile, Problem: err.Error(), Hint: "the one before it stays in use"}
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

// leafOf returns the certificate of this end, nil if there is none.
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
