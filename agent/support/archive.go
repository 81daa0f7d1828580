package support

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/within"
)

const (
	// itemTimeout bounds an item that names no limit.
	itemTimeout = 10 * time.Second
	// maxItem bounds what is kept of an item: its last part.
	maxItem = 16 << 20
	// atOnce is how many items are collected at one time.
	atOnce = 4
)

// Item is a part of the archive.
type Item struct {
	// Name is that of the file.
	Name string
	// Collect returns the content, as far as there is one even with an error. It may ignore ctx.
	Collect func(ctx context.Context) ([]byte, error)
	// Timeout bounds Collect. 0: 10 s.
	Timeout time.Duration
}

// Entry is a file of the archive. Its JSON only gains fields.
type Entry struct {
	Name  string  `json:"name"`
	Bytes int     `json:"bytes"`
	Took  float64 `json:"took_seconds"`
	// Error is why the item is not, or not all, there.
	Error string `json:"error,omitempty"`

	content []byte
}

// ManifestName is the file that lists the others.
const ManifestName = "manifest.json"

// Manifest is the content of ManifestName. Its JSON only gains fields.
type Manifest struct {
	Created time.Time `json:"created"`
	Files   []Entry   `json:"files"`
}

// Collect collects the items, some at a time, and scrubs them. It ends with ctx, and with the
// longest time limits of the items.
func Collect(ctx context.Context, items []Item, s *Scrubber) []Entry {
	entries := make([]Entry, len(items))
	places := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for k, item := range items {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			entries[k] = collect(ctx, item, s)
		})
	}
	all.Wait()
	return entries
}

func collect(ctx context.Context, item Item, s *Scrubber) Entry {
	limit := item.Timeout
	if limit == 0 {
		limit = itemTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %v", limit))
	defer cancel()
	began := time.Now()
	content, err := within.Call(ctx, func(ctx context.Context) (content []byte, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("it panicked: %v", p)
			}
		}()
		return item.Collect(ctx)
	})
	e := Entry{Name: item.Name, Took: time.Since(began).Seconds()}
	content = s.Scrub(content) // before it is cut, which could leave a part of a secret
	if len(content) > maxItem {
		err = errors.Join(err, fmt.Errorf("only the last %d of %d bytes are kept", maxItem, len(content)))
		content = content[len(content)-maxItem:]
	}
	if err != nil {
		e.Error = string(s.Scrub([]byte(err.Error())))
		if len(content) == 0 {
			content = []byte("error: " + e.Error + "\n")
		}
	}
	e.content = content
	e.Bytes = len(e.content)
	return e
}

// Write writes the archive: the entries below a directory, and the manifest first.
func Write(w io.Writer, directory string, created time.Time, entries []Entry) error {
	manifest, err := json.MarshalIndent(Manifest{Created: created, Files: entries}, "", "  ")
	if err != nil {
		return err
	}
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	for _, e := range append([]Entry{{Name: ManifestName, content: append(manifest, '\n')}}, entries...) {
		err := archive.WriteHeader(&tar.Header{Name: directory + "/" + e.Name, Mode: 0o600, Size: int64(len(e.content)), ModTime: created, Format: tar.FormatPAX})
		if err == nil {
			_, err = archive.Write(e.content)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), zipped.Close())
}

// WriteFile writes the archive to a new file that only its owner may read. Nothing is overwritten,
// and no part of an archive is ever under that name.
func WriteFile(name, directory string, created time.Time, entries []Entry) (err error) {
	if err := CheckFree(name); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".muster-support-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(Write(f, directory, created, entries), f.Sync(), f.Close()); err != nil {
		return err
	}
	err = os.Link(f.Name(), name)
	if err != nil && !errors.Is(err, fs.ErrExist) { // a file system without links
		if err = CheckFree(name); err == nil {
			err = os.Rename(f.Name(), name)
		}
	}
	return err
}

// CheckFree returns an error that is fs.ErrExist if there is something of that name.
func CheckFree(name string) error {
	if _, err := os.Lstat(name); err == nil {
		return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	return nil
}
