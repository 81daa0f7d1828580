package image

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// written returns an archive of a program that does nothing.
func written(t *testing.T) (archive []byte, o Options) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "muster")
	if err := os.WriteFile(program, []byte("a program"), 0o600); err != nil {
		t.Fatal(err)
	}
	o = Options{Name: "muster:0.1.0", Arch: "arm64", Program: program, Licence: program, Version: "v0.1.0", Revision: "e376431",
		Time: time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC), Labels: map[string]string{"more": "yes"}}
	var b bytes.Buffer
	if err := Write(&b, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), o
}

// Two archives of the same program are the same.
func TestReproducible(t *testing.T) {
	first, _ := written(t)
	if second, _ := written(t); !bytes.Equal(first, second) {
		t.Error("two archives differ")
	}
}

// The archive is a whole OCI layout, and an engine that reads manifest.json finds the same image.
func TestArchive(t *testing.T) {
	archive, o := written(t)
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("the index is %+v, %v", manifest, err)
	}
	described := manifest.Manifests[0]
	if described.Platform.String() != "linux/arm64" || described.Annotations["io.containerd.image.name"] != "docker.io/library/muster:0.1.0" {
		t.Errorf("the index describes %+v", described)
	}
	img, err := index.Image(described.Digest)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(o.Name)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }, &tag)
	if err != nil {
		t.Fatal(err)
	}
	first, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := loaded.ConfigName(); err != nil || first != second {
		t.Errorf("the layout has the configuration %v, manifest.json %v, %v", first, second, err)
	}
	checkConfig(t, img, o)
	checkFiles(t, img, o)
}

func checkConfig(t *testing.T, img v1.Image, o Options) {
	t.Helper()
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if file.OS != "linux" || file.Architecture != o.Arch || !file.Created.Equal(o.Time) || file.Config.User != "65532:65532" ||
		file.Config.Healthcheck == nil || len(file.Config.Entrypoint) != 1 || file.Config.Entrypoint[0] != "/muster" {
		text, _ := json.Marshal(file)
		t.Errorf("the configuration is %s", text)
	}
	for label, want := range map[string]string{
		"org.opencontainers.image.version": "0.1.0", "org.opencontainers.image.revision": o.Revision, "org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.created": "2026-11-02T03:04:05Z", "more": "yes",
	} {
		if got := file.Config.Labels[label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
}

func checkFiles(t *testing.T, img v1.Image, o Options) {
	t.Helper()
	files, content := map[string]*tar.Header{}, map[string][]byte{}
	extracted := mutate.Extract(img)
	defer extracted.Close()
	for r := tar.NewReader(extracted); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Clean(h.Name)
		files[name] = h
		if content[name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(o.Time) {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
	}
	for name, want := range map[string]struct {
		mode int64
		user int
	}{
		"muster": {0o755, 0}, "LICENSE": {0o644, 0}, "var/lib/muster": {0o755, 65532}, "etc/ssl/certs/ca-certificates.crt": {0o644, 0}, "usr/share/zoneinfo.zip": {0o644, 0},
	} {
		if h := files[name]; h == nil || h.Mode != want.mode || h.Uid != want.user || h.Gid != want.user {
			t.Errorf("%s is %+v", name, h)
		}
	}
	pool := x509.NewCertPool()
	authorities := content["etc/ssl/certs/ca-certificates.crt"]
	if !pool.AppendCertsFromPEM(authorities) || bytes.Count(authorities, []byte("BEGIN CERTIFICATE")) < 80 {
		t.Errorf("there are %d bytes of certificates", len(authorities))
	}
	zones := content["usr/share/zoneinfo.zip"]
	r, err := zip.NewReader(bytes.NewReader(zones), int64(len(zones)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open("Europe/Berlin"); err != nil {
		t.Error(err)
	}
}
