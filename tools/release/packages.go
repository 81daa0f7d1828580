package main

import (
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // the formats, which nfpm.Get finds
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// packages writes the deb and the rpm of a target, which is one of Linux.
func (r *release) packages(t target) error {
	if err := r.packageDocuments(); err != nil {
		return err
	}
	config, err := nfpm.ParseFileWithEnvMapping(filepath.Join(r.root, "deploy", "packages", "nfpm.yaml"), func(name string) string {
		switch name {
		case "ARCH":
			return t.arch
		case "VERSION":
			return r.version
		}
		return ""
	})
	if err != nil {
		return fmt.Errorf("deploy/packages/nfpm.yaml: %w", err)
	}
	pages, err := os.ReadDir(filepath.Join(r.stage, manuals+".gz"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		config.Contents = append(config.Contents, &files.Content{
			Source:      "stage/" + manuals + ".gz/" + page.Name(),
			Destination: "/usr/share/man/man1/" + page.Name(),
			FileInfo:    &files.ContentFileInfo{Mode: 0o644},
		})
	}
	config.MTime = r.time
	for _, format := range []string{"deb", "rpm"} {
		if err := r.writePackage(t, &config, format); err != nil {
			return fmt.Errorf("%s of %s: %w", format, t, err)
		}
	}
	return nil
}

// writePackage writes one package. Its sources are below the checkout, the stage, or the directory
// of the program.
func (r *release) writePackage(t target, config *nfpm.Config, format string) (err error) {
	info, err := config.Get(format)
	if err != nil {
		return err
	}
	contents := make(files.Contents, 0, len(info.Contents))
	for _, c := range info.Contents {
		content := *c // the other format gets it, too
		fileInfo := *c.FileInfo
		fileInfo.MTime = r.time
		content.FileInfo = &fileInfo
		if c.Source != "" {
			content.Source = r.source(t, c.Source)
		}
		contents = append(contents, &content)
	}
	info.Contents = contents
	for _, script := range []*string{&info.Scripts.PostInstall, &info.Scripts.PreRemove, &info.Scripts.PostRemove} {
		*script = r.source(t, *script)
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.Validate(info); err != nil {
		return err
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(r.name(t.String()+"."+format), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := packager.Package(info, f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// source finds a file of nfpm.yaml: "program", or one below stage/, or else below the checkout.
func (r *release) source(t target, name string) string {
	if name == "program" {
		return r.program(t)
	}
	if below, ok := strings.CutPrefix(name, "stage/"); ok {
		return filepath.Join(r.stage, below)
	}
	return filepath.Join(r.root, name)
}

// copyright is the path of the file of packageDocuments that holds our licence and those of others.
func (r *release) copyright() string { return filepath.Join(r.stage, "copyright") }

// packageDocuments writes the documents that only packages have: compressed manual pages, and
// the licences as one file. It does so once.
func (r *release) packageDocuments() error {
	dir := filepath.Join(r.stage, manuals+".gz")
	if err := os.Mkdir(dir, 0o755); err != nil {
		if os.IsExist(err) {
			return nil
		}
		return err
	}
	own, err := os.ReadFile(filepath.Join(r.root, "LICENSE"))
	if err != nil {
		return err
	}
	others, err := os.ReadFile(filepath.Join(r.stage, licences))
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.copyright(), slices.Concat(own, []byte("\n"), others), 0o644); err != nil {
		return err
	}
	pages, err := os.ReadDir(filepath.Join(r.stage, manuals))
	if err != nil {
		return err
	}
	for _, page := range pages {
		content, err := os.ReadFile(filepath.Join(r.stage, manuals, page.Name()))
		if err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dir, page.Name()+".gz"))
		if err != nil {
			return err
		}
		// Without a name and a time in its header.
		w, err := gzip.NewWriterLevel(f, gzip.BestCompression)
		if err == nil {
			_, err = w.Write(content)
		}
		if err == nil {
			err = w.Close()
		}
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return err
		}
	}
	return nil
}
