// Command release makes all that is published of a version, into a directory that it empties first.
// It is what `make release` runs, from tools/release:
//
//	go run . -version v0.1.0
//
// The same commit, version of Go and version of this program give the same bytes, whatever the
// directory, the user and the time. Times in archives are those of the commit.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

// The systems that archives are made for.
var targets = []target{
	{"darwin", "amd64"}, {"darwin", "arm64"},
	{"linux", "amd64"}, {"linux", "arm64"},
	{"windows", "amd64"}, {"windows", "arm64"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root := flag.String("root", "../..", "the checkout of Muster")
	out := flag.String("out", "", "directory that is emptied and filled (default dist/release of the checkout)")
	version := flag.String("version", "", "version, as v0.1.0 (default the tag of the commit, or a pseudo-version)")
	system := flag.String("target", "", "the one system to release for, as linux/amd64 (default all)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "release: unexpected arguments:", strings.Join(flag.Args(), " "))
		os.Exit(2)
	}
	wanted, err := chosen(*system)
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(2)
	}
	if *out == "" {
		*out = filepath.Join(*root, "dist", "release")
	}
	if err := run(ctx, *root, *out, *version, wanted); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// chosen returns the targets that -target names.
func chosen(system string) ([]target, error) {
	if system == "" {
		return targets, nil
	}
	var all []string
	for _, t := range targets {
		name := t.os + "/" + t.arch
		if name == system {
			return []target{t}, nil
		}
		all = append(all, name)
	}
	return nil, fmt.Errorf("-target: %q: no system that is released for; name one of %s", system, strings.Join(all, ", "))
}

// run makes a release of the checkout at root for the targets.
func run(ctx context.Context, root, out, version string, targets []target) error {
	start := time.Now()
	r, err := newRelease(ctx, root, out, version)
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.stage)
	if err := r.documents(ctx, targets); err != nil {
		return err
	}
	for _, t := range targets {
		if err := r.build(ctx, t); err != nil {
			return err
		}
		if t.os == "linux" {
			if err := r.packages(t); err != nil {
				return err
			}
			if err := r.image(t); err != nil {
				return err
			}
		}
		if err := r.archive(t); err != nil {
			return err
		}
		if err := r.sbom(t); err != nil {
			return err
		}
	}
	names, err := r.checksums()
	if err != nil {
		return err
	}
	for _, name := range names {
		fmt.Println(filepath.Join(r.out, name))
	}
	fmt.Printf("%s in %v\n", r.version, time.Since(start).Round(time.Second))
	return nil
}
