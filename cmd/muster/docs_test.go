package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/node/config"
)

const (
	docsDir       = "../../docs"
	referencePage = docsDir + "/configuration.md"
)

// TestReferenceIsComplete holds that docs/configuration.md lists every key that
// there is, with its type, default and variable, and none that is not.
func TestReferenceIsComplete(t *testing.T) {
	page, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]config.Key)
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		name := cells[1]
		if _, twice := documented[name]; twice {
			t.Errorf("%s is listed twice", name)
		}
		if cells[5] == "" {
			t.Errorf("%s is listed without its meaning", name)
		}
		documented[name] = config.Key{Name: name, Type: cells[2], Default: cells[3], Env: cells[4]}
	}
	keys, err := config.Keys()
	if err != nil {
		t.Fatal(err)
	}
	existing := make(map[string]config.Key, len(keys))
	for _, k := range keys {
		k.Flag = "" // the page gives the rule
		existing[k.Name] = k
	}
	if diff := cmp.Diff(existing, documented); diff != "" {
		t.Errorf("%s differs from the code: -code +page:\n%s", referencePage, diff)
	}
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestExamplesInTheDocumentation holds that every configuration that the
// documentation shows has known keys and good values. The files that it names are
// not there, which is the one thing that may be wrong.
func TestExamplesInTheDocumentation(t *testing.T) {
	pages, err := filepath.Glob(docsDir + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../providers/*/README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, page := range append(append(pages, more...), "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			if !regexp.MustCompile(`(?m)^(cluster|registrar|services):`).MatchString(block[1]) {
				continue // a part of a configuration, or something else
			}
			shown++
			_, err := config.Load(config.Options{Path: writeFile(t, "muster.yaml", block[1]), Env: []string{}, Purpose: config.ForAny})
			if err == nil {
				continue
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.Contains(line, "_file: ") || !strings.Contains(line, "cannot be read: ") {
					t.Errorf("%s: %s", page, line)
				}
			}
		}
	}
	if shown < 3 {
		t.Errorf("only %d configurations were found", shown)
	}
}

// TestExampleFiles holds that the configuration files among the examples are good.
func TestExampleFiles(t *testing.T) {
	checked := 0
	err := filepath.WalkDir("../../examples", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		checked++
		if status, _, stderr := execute(t, "config", "check", "-c", path); status != statusDone {
			t.Errorf("config check -c %s: status %d: %s", path, status, stderr)
		}
		return nil
	})
	if err != nil || checked < 3 {
		t.Errorf("%d files were checked, %v", checked, err)
	}
}
