package formattest

import (
	"context"
	"iter"
	"reflect"
	"sync"

	"github.com/musterhq/muster/discovery/driver"
)

// memory knows what was registered through the drivers that it wraps, so that what
// a format has lost of an instance is given back to those who look for it.
type memory struct{ registered sync.Map } // instances by what is left of them

// Driver is what the formats are written by.
type Driver interface {
	driver.Driver
	driver.Watcher
	driver.Cataloger
	driver.Registrar
	driver.Normalizer
	driver.PermissionChecker
}

// whole is a driver whose instances are made whole.
type whole struct {
	Driver
	m *memory
}

// key is what tells an instance from others where it is read.
func key(reduced driver.Instance) [2]string { return [2]string{reduced.Service, reduced.Key()} }

func (w *whole) restore(s driver.Snapshot) driver.Snapshot {
	for n, i := range s.Instances {
		if was, ok := w.m.registered.Load(key(i)); ok && reflect.DeepEqual(w.Normalize(was.(driver.Instance)), i) {
			s.Instances[n] = was.(driver.Instance)
		}
	}
	return s
}

func (w *whole) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	s, err := w.Driver.List(ctx, q)
	return w.restore(s), err
}

func (w *whole) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return func(yield func(driver.Snapshot, error) bool) {
		for s, err := range w.Driver.Watch(ctx, q, since) {
			if !yield(w.restore(s), err) {
				return
			}
		}
	}
}

func (w *whole) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	s, err := w.Driver.OpenSession(ctx, o)
	if err != nil {
		return nil, err
	}
	return &session{s, w}, nil
}

type session struct {
	driver.Session
	w *whole
}

// Register remembers the instance.
func (s *session) Register(ctx context.Context, i driver.Instance) error {
	s.w.m.registered.Store(key(s.w.Normalize(i)), i)
	return s.Session.Register(ctx, i)
}
