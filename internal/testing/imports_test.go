package testing_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/musterhq/muster"

// forTests are the packages for users' tests. They are the only ones outside this folder that
// import package testing.
var forTests = []string{module + "/discovery/discoverytest", module + "/node/nodetest"}

// The machinery of tests is below this folder, and no program links it.
func TestOnlyTestsImportTheMachineryOfTests(t *testing.T) {
	// The worker of the fault catalogue is built with a tag, as the packages it replaces parts of.
	for _, tags := range []string{"", "musterfault"} {
		packages := imports(t, tags)
		for _, wanted := range append(forTests, module+"/cmd/muster", module+"/examples/embed", module+"/internal/testing/faults") {
			if len(packages[wanted]) == 0 {
				t.Errorf("%s is missing from the list: were the packages listed?", wanted)
			}
		}
		for importer, imported := range packages {
			if below(importer) {
				continue
			}
			public := slices.Contains(forTests, importer)
			for _, i := range imported {
				switch {
				case below(i) && !public:
					t.Errorf("%s imports %s: only tests do", importer, i)
				case (i == "testing" || strings.HasPrefix(i, "testing/")) && !public:
					t.Errorf("%s imports %s: move it below internal/testing, or into a test", importer, i)
				}
			}
		}
	}
}

func below(path string) bool { return strings.HasPrefix(path, module+"/internal/testing/") }

// imports returns what each package of the module imports, its tests left aside.
func imports(t *testing.T, tags string) map[string][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-tags", tags, "-f", "{{.ImportPath}} {{join .Imports \" \"}}", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		packages[f[0]] = f[1:]
	}
	return packages
}

// Each folder has its line in the package comment.
func TestEveryFolderIsListed(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.Contains(string(doc), "//\t"+e.Name()+" ") {
			t.Errorf("doc.go has no line for %s", e.Name())
		}
	}
}
