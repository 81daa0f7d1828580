package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzLoad holds that no file makes Load panic, and that what it accepts can be
// shown and what it refuses is reported in lines that have a place.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "MUSTER_NODE_META=a=b")
	}
	f.Add([]byte(shownFile), "MUSTER_PROVIDER_STUB_PEERS=10.0.0.5:1")
	f.Add([]byte("a: &a [*a]\n? [b]\n: c\n<<: *a\n"), "MUSTER_X")
	f.Fuzz(func(t *testing.T, data []byte, variable string) {
		s, err := newSchema()
		if err != nil {
			t.Fatal(err)
		}
		l := &loader{schema: s, env: newEnvironment([]string{variable})}
		l.file = readFile("", s, &l.problems)
		l.file.name = "fuzz.yaml"
		l.file.read(data)
		l.layers.file = l.file.values
		l.layers.env = l.env.read(s, &l.problems)
		c, err := l.load()
		if err == nil {
			if err := c.WriteYAML(new(strings.Builder)); err != nil {
				t.Errorf("what was loaded cannot be shown: %v", err)
			}
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, "fuzz.yaml") && !strings.HasPrefix(line, "MUSTER_") {
				t.Errorf("an error without a place: %q", line)
			}
		}
	})
}
