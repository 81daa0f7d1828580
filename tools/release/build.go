package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// A target is a system that the command is built for.
type target struct{ os, arch string }

func (t target) String() string { return t.os + "_" + t.arch }

// A release is one version in the making.
type release struct {
	root     string    // the checkout
	out      string    // what is published
	stage    string    // what is not: programs and documents on their way into archives
	version  string    // as v0.1.0
	revision string    // the commit
	time     time.Time // that of the commit
}

// newRelease describes the commit that is checked out at root, empties out and makes a directory
// for the stage, which the caller removes. If version is empty, it is the tag of the commit,
// or else a pseudo-version of Go.
func newRelease(ctx context.Context, root, out, version string) (*release, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	out, err = filepath.Abs(out)
	if err != nil {
		return nil, err
	}
	r := &release{root: root, out: out}
	r.revision, err = r.command(ctx, nil, "git", "rev-parse", "HEAD")
	if err != nil {
		return nil, err
	}
	seconds, err := r.command(ctx, nil, "git", "show", "-s", "--format=%ct", "HEAD")
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, err
	}
	r.time = time.Unix(n, 0).UTC()
	if r.version, err = r.describe(ctx, version); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(out); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	r.stage, err = os.MkdirTemp("", "muster-release-")
	return r, err
}

// releaseTag is the form of the tags that are releases.
const releaseTag = "v[0-9]*"

// describe returns the version of the checkout. One that is asked for, or is that of a tag, must
// be what everyone has who has the commit; a pseudo-version says itself if it is not.
func (r *release) describe(ctx context.Context, version string) (string, error) {
	changed, err := r.command(ctx, nil, "git", "status", "--porcelain")
	if err != nil {
		return "", err
	}
	if version == "" && changed == "" {
		// It fails if the commit has no tag.
		version, _ = r.command(ctx, nil, "git", "describe", "--tags", "--exact-match", "--match", releaseTag)
	}
	if version != "" {
		if !semver.IsValid(version) || semver.Canonical(version) != version {
			return "", fmt.Errorf("version %q: not of the form v1.2.3 or v1.2.3-rc.1", version)
		}
		if changed != "" {
			return "", fmt.Errorf("version %s: uncommitted changes: commit them, or leave the version out for a pseudo-version:\n%s", version, changed)
		}
		return version, nil
	}
	older, _ := r.command(ctx, nil, "git", "describe", "--tags", "--abbrev=0", "--match", releaseTag)
	version = module.PseudoVersion(cmp.Or(semver.Major(older), "v0"), older, r.time, r.revision[:12])
	if changed != "" {
		version += "+dirty"
	}
	return version, nil
}

// program is where build leaves the program of a target.
func (r *release) program(t target) string {
	name := "muster"
	if t.os == "windows" {
		name += ".exe"
	}
	return filepath.Join(r.stage, t.String(), name)
}

// build compiles the command for a target.
func (r *release) build(ctx context.Context, t target) error {
	return r.compile(ctx, r.program(t), "", "GOOS="+t.os, "GOARCH="+t.arch)
}

// compile builds the command. Nothing of the environment but the place of the caches and the
// module proxy gets into it.
func (r *release) compile(ctx context.Context, output, tags string, env ...string) error {
	const info = "github.com/musterhq/muster/internal/buildinfo"
	flags := fmt.Sprintf("-s -w -X "+info+".releaseVersion=%s -X "+info+".releaseRevision=%s -X "+info+".releaseTime=%s",
		r.version, r.revision, r.time.Format(time.RFC3339))
	_, err := r.command(ctx, env, "go", "build", "-trimpath", "-tags", tags, "-ldflags", flags, "-o", output, "./cmd/muster")
	return err
}

// command runs a program in the checkout and returns what it prints, without the final newline.
func (r *release) command(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off")
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%s %s: %w\n%s", name, args[0], err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return strings.TrimRight(string(out), "\n"), nil
}

// name is that of a published file: muster_0.1.0_ and the rest.
func (r *release) name(rest string) string {
	return filepath.Join(r.out, "muster_"+r.number()+"_"+rest)
}

// number is the version without the v, and with no character that a file name, or the name of an
// asset of GitHub, cannot have.
func (r *release) number() string {
	return regexp.MustCompile(`[^0-9A-Za-z.-]`).ReplaceAllString(strings.TrimPrefix(r.version, "v"), "-")
}

// checksums writes SHA256SUMS, as sha256sum -c reads it, and returns the names of all files.
func (r *release) checksums() ([]string, error) {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return nil, err
	}
	var names []string
	var sums strings.Builder
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(r.out, entry.Name()))
		if err != nil {
			return nil, err
		}
		names = append(names, entry.Name())
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(content), entry.Name())
	}
	names = append(names, "SHA256SUMS")
	slices.Sort(names)
	return names, os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(sums.String()), 0o644)
}
