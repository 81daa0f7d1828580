package testserver

import (
	"os/exec"
	"testing"
)

// All programs can be built and run. make test has this run first: a machine that builds a server
// has no time for tests whose TTLs are short.
func TestProgramsAreBuilt(t *testing.T) {
	for _, tool := range []tool{etcdTool, consulTool, promtoolTool, prometheusTool} {
		program, err := tool.path()
		if err != nil {
			t.Fatal(err)
		}
		argument := "--version"
		if tool.name == consulTool.name {
			argument = "version"
		}
		if out, err := exec.CommandContext(t.Context(), program, argument).CombinedOutput(); err != nil {
			t.Errorf("%s %s: %v\n%s", tool.name, argument, err, out)
		}
	}
}
