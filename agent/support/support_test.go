package support_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/support"
	"github.com/musterhq/muster/secret"
)

func TestScrub(t *testing.T) {
	s := support.NewScrubber("hunter2", "hunter2-and-more", `a "quoted" one`, "p@ss word/", "abc", `<it's> the "end"`)
	for text, want := range map[string]string{
		"x hunter2 y":                                                     "x [redacted] y",
		"x hunter2-and-more y":                                            "x [redacted] y",
		`{"x":"a \"quoted\" one"}`:                                        `{"x":"[redacted]"}`,
		"q=p%40ss+word%2F":                                                "q=[redacted]",
		"http://me:other@10.0.0.5/x":                                      "http://me:[redacted]@10.0.0.5/x",
		"http://me:o:t@h@10.0.0.5/x":                                      "http://me:[redacted]@10.0.0.5/x",
		`{"x":"\u003cit's\u003e the \"end\""}`:                            `{"x":"[redacted]"}`,
		`{"x":"<it's> the \"end\""}`:                                      `{"x":"[redacted]"}`,
		`x: '<it''s> the "end"'`:                                          `x: '[redacted]'`,
		"http://me:o/th#er?x@10.0.0.5/x":                                  "http://me:[redacted]@10.0.0.5/x",
		"http://me@x:other@10.0.0.5/x":                                    "http://me@x:[redacted]@10.0.0.5/x",
		"http://10.0.0.5:1,http://me:o/x@host/x":                          "http://10.0.0.5:1,http://me:[redacted]@host/x",
		"http://[::1]:80/x@y":                                             "http://[::1]:80/x@y",
		"http://10.0.0.5:1/x?a=b@c":                                       "http://10.0.0.5:1/x?a=b@c",
		`"Authorization: Bearer AbC.d-9"`:                                 `"Authorization: Bearer [redacted]"`,
		"abc is too short to be found":                                    "abc is too short to be found",
		"-----BEGIN EC PRIVATE KEY-----\nMHc=":                            "[redacted]",
		"a\n-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\nb": "a\n[redacted]\nb",
	} {
		if got := string(s.Scrub([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// An item that fails, hangs or panics holds the error, and keeps no other from being there.
func TestCollect(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	defer close(hang)
	items := []support.Item{
		{Name: "good", Collect: func(context.Context) ([]byte, error) { return []byte("text"), nil }},
		{Name: "failed", Collect: func(context.Context) ([]byte, error) { return nil, errors.New("no hunter2 here") }},
		{Name: "part", Collect: func(context.Context) ([]byte, error) { return []byte("half"), errors.New("broke off") }},
		{Name: "panics", Collect: func(context.Context) ([]byte, error) { panic("hunter2") }},
		{Name: "hangs", Timeout: time.Millisecond, Collect: func(context.Context) ([]byte, error) { <-hang; return nil, nil }},
		{Name: "large", Collect: func(context.Context) ([]byte, error) { return []byte(strings.Repeat("x", 17<<20) + "end"), nil }},
	}
	entries := support.Collect(t.Context(), items, support.NewScrubber(secret.String("hunter2")))
	for k, want := range []string{"", "no [redacted] here", "broke off", "it panicked: [redacted]", "it took longer than 1ms", "only the last"} {
		if e := entries[k]; e.Name != items[k].Name || (want == "") != (e.Error == "") || !strings.Contains(e.Error, want) || e.Bytes == 0 || e.Bytes > 16<<20 {
			t.Errorf("%s: %d bytes, %q, want %q", e.Name, e.Bytes, e.Error, want)
		}
	}
}

// What is cut leaves no part of a secret that was at the cut.
func TestCutSecret(t *testing.T) {
	t.Parallel()
	large := support.Item{Name: "large", Collect: func(context.Context) ([]byte, error) { return []byte("hunter2" + strings.Repeat("x", 16<<20-3)), nil }}
	var archive bytes.Buffer
	if err := support.Write(&archive, "d", time.Now(), support.Collect(t.Context(), []support.Item{large}, support.NewScrubber("hunter2"))); err != nil {
		t.Fatal(err)
	}
	unpacked, err := gzip.NewReader(&archive)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unpacked)
	if err != nil || bytes.Contains(content, []byte("er2x")) || !bytes.Contains(content, []byte("ed]x")) {
		t.Errorf("%d bytes with a part of the secret: %v", len(content), err)
	}
}

// A file is there as a whole, or not at all, and none is written over.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x.tar.gz")
	entries := support.Collect(t.Context(), []support.Item{{Name: "a", Collect: func(context.Context) ([]byte, error) { return []byte("x"), nil }}}, support.NewScrubber())
	if err := support.WriteFile(name, "d", time.Now(), entries); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := support.WriteFile(name, "d", time.Now().Add(time.Hour), entries); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written again: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", link); err == nil {
		if err := support.WriteFile(link, "d", time.Now(), entries); !errors.Is(err, fs.ErrExist) {
			t.Errorf("written through a link: %v", err)
		}
		os.Remove(link)
	}
	after, _ := os.ReadFile(name)
	if left, _ := os.ReadDir(dir); len(left) != 1 || string(before) != string(after) {
		t.Errorf("there is %v in the end", left)
	}
}

func TestReadSystem(t *testing.T) {
	s := support.ReadSystem()
	if s.OS == "" || s.CPUs < 1 || len(s.Interfaces) == 0 || s.BootNS <= 0 || s.Time.IsZero() {
		t.Errorf("the system is %+v", s)
	}
	if s.OS == "linux" && (s.Limits["open files"] == "" || s.Kernel == "" || s.ClockSync["status"] == nil && s.ClockSync["error"] == nil) {
		t.Errorf("the system is %+v", s)
	}
}
