// Package image writes the image of muster: one static program on nothing but certificate
// authorities and time zones. It needs no engine and no registry.
package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user exists nowhere else. To ask the container engine for its address, a node also needs the
// group of the socket: docker run --group-add.
const user = 65532

// Options say what an image is of.
type Options struct {
	Name     string            // under which an engine loads it, as muster:0.1.0; the default tag is latest
	Arch     string            // of the program, as GOARCH has it
	Program  string            // a path
	Licence  string            // a path of what goes with the program; may be empty
	Version  string            // as v0.1.0; may be empty
	Revision string            // the commit; may be empty
	Time     time.Time         // of everything within
	Labels   map[string]string // more of them
}

// Write writes an archive that is both an OCI layout and what docker load reads. The same options,
// files and version of Go give the same bytes.
func Write(w io.Writer, o Options) error {
	img, err := build(o)
	if err != nil {
		return err
	}
	return writeArchive(w, img, o)
}

func build(o Options) (v1.Image, error) {
	base, err := baseLayer(o)
	if err != nil {
		return nil, err
	}
	program, err := programLayer(o)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, layer := range []struct {
		content []byte
		by      string
	}{{base, "certificate authorities, time zones and the directory of the state"}, {program, "muster"}} {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(layer.content)), nil
		}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: o.Time}, CreatedBy: layer.by}})
		if err != nil {
			return nil, err
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", o.Arch, v1.Time{Time: o.Time}
	file.Config = v1.Config{
		User: fmt.Sprintf("%d:%d", user, user),
		// A voter of a static list keeps its state in /var/lib/muster/CLUSTER/NODE. Mount a volume
		// there; it gets the owner of this directory.
		Env: []string{"PATH=/", "XDG_STATE_HOME=/var/lib", "ZONEINFO=/usr/share/zoneinfo.zip"},
		// The one port, TCP only. docker run -P publishes it at a port that the engine chooses.
		ExposedPorts: map[string]struct{}{"7946/tcp": {}},
		// An agent that answers is healthy. Whether it has joined a cluster is /readyz: killing a
		// node that waits for others would not help. For a registrar use muster registrar health.
		Healthcheck: &v1.HealthConfig{
			Test: []string{"CMD", "/muster", "agent", "health"}, Interval: 10 * time.Second, Timeout: 6 * time.Second,
			StartPeriod: 10 * time.Second, Retries: 3,
		},
		// MUSTER_CONFIG names the configuration file, or the environment holds the configuration.
		Entrypoint: []string{"/muster"},
		Cmd:        []string{"agent"},
		Labels: map[string]string{
			"org.opencontainers.image.title":         "muster",
			"org.opencontainers.image.description":   "Service discovery, cluster membership and leader election",
			"org.opencontainers.image.source":        "https://github.com/musterhq/muster",
			"org.opencontainers.image.documentation": "https://github.com/musterhq/muster",
			"org.opencontainers.image.licenses":      "Apache-2.0",
			"org.opencontainers.image.created":       o.Time.UTC().Format(time.RFC3339),
		},
	}
	for label, value := range map[string]string{"version": strings.TrimPrefix(o.Version, "v"), "revision": o.Revision} {
		if value != "" {
			file.Config.Labels["org.opencontainers.image."+label] = value
		}
	}
	for label, value := range o.Labels {
		file.Config.Labels[label] = value
	}
	return mutate.ConfigFile(img, file)
}

// authorities are those of Mozilla's list, in PEM. A file cannot say that a root is trusted only
// for certificates up to a date, so the roots of which that is true are left out.
func authorities() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a Buffer does not fail
		}
	}
	return text.Bytes()
}

// zones returns the time zones that come with Go.
func zones() ([]byte, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	return os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"))
}

func baseLayer(o Options) ([]byte, error) {
	zoneinfo, err := zones()
	if err != nil {
		return nil, err
	}
	l := newLayer(o.Time)
	for _, dir := range []string{"etc", "etc/ssl", "etc/ssl/certs", "usr", "usr/share", "var", "var/lib"} {
		l.add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	l.add(tar.Header{Typeflag: tar.TypeDir, Name: "var/lib/muster/", Mode: 0o755, Uid: user, Gid: user}, nil)
	l.add(tar.Header{Name: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644}, authorities())
	l.add(tar.Header{Name: "usr/share/zoneinfo.zip", Mode: 0o644}, zoneinfo)
	return l.close()
}

func programLayer(o Options) ([]byte, error) {
	program, err := os.ReadFile(o.Program)
	if err != nil {
		return nil, err
	}
	l := newLayer(o.Time)
	l.add(tar.Header{Name: "muster", Mode: 0o755}, program)
	if o.Licence != "" {
		text, err := os.ReadFile(o.Licence)
		if err != nil {
			return nil, err
		}
		l.add(tar.Header{Name: "LICENSE", Mode: 0o644}, text)
	}
	return l.close()
}

// A layer is a tar in the making, which remembers its first error.
type layer struct {
	time    time.Time
	content bytes.Buffer
	tar     *tar.Writer
	err     error
}

func newLayer(t time.Time) *layer {
	l := &layer{time: t}
	l.tar = tar.NewWriter(&l.content)
	return l
}

func (l *layer) add(h tar.Header, content []byte) {
	if l.err != nil {
		return
	}
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	h.Size, h.ModTime = int64(len(content)), l.time
	if l.err = l.tar.WriteHeader(&h); l.err == nil {
		_, l.err = l.tar.Write(content)
	}
}

func (l *layer) close() ([]byte, error) {
	if l.err != nil {
		return nil, l.err
	}
	err := l.tar.Close()
	return l.content.Bytes(), err
}

// writeArchive writes an OCI layout, to which manifest.json is added: engines before Docker 25 read
// that alone.
func writeArchive(w io.Writer, img v1.Image, o Options) error {
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	configName, err := img.ConfigName()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	blobs := newLayer(o.Time)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		blobs.add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	blob := func(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
	blobs.add(tar.Header{Name: blob(configName), Mode: 0o644}, config)
	blobs.add(tar.Header{Name: blob(digest), Mode: 0o644}, manifest)
	var paths []string
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return err
		}
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		paths = append(paths, blob(h))
		blobs.add(tar.Header{Name: blob(h), Mode: 0o644}, content)
	}
	tag, err := name.NewTag(o.Name)
	if err != nil {
		return err
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{{
		MediaType: types.OCIManifestSchema1, Digest: digest, Size: int64(len(manifest)),
		Platform: &v1.Platform{OS: "linux", Architecture: o.Arch},
		Annotations: map[string]string{
			"org.opencontainers.image.ref.name": tag.TagStr(),
			"io.containerd.image.name":          strings.TrimPrefix(tag.Name(), "index."), // its own words for index.docker.io
		},
	}}}
	type dockerManifest struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	for _, f := range []struct {
		name  string
		value any
	}{
		{"index.json", index},
		{"manifest.json", []dockerManifest{{blob(configName), []string{strings.TrimPrefix(tag.Name(), "index.docker.io/library/")}, paths}}},
		{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}},
	} {
		text, err := json.Marshal(f.value)
		if err != nil {
			return err
		}
		blobs.add(tar.Header{Name: f.name, Mode: 0o644}, text)
	}
	archive, err := blobs.close()
	if err != nil {
		return err
	}
	_, err = w.Write(archive)
	return err
}
