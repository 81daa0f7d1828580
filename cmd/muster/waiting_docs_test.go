package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/registrar/host"
)

// TestWaitReasonsAreDocumented holds that docs/waiting.md has every code of what a node or a
// registrar waits for, with its meaning and what to do, and none that there is not.
func TestWaitReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile(docsDir + "/waiting.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{}
	section := ""
	for line := range strings.Lines(string(page)) {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.TrimSpace(heading)
		}
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.HasPrefix(cells[1], " `") || section == "" {
			continue
		}
		code := strings.Trim(cells[1], " `")
		documented[section] = append(documented[section], code)
		if strings.TrimSpace(cells[2]) == "" || strings.TrimSpace(cells[3]) == "" {
			t.Errorf("%s: %s has no meaning, or nothing to do", section, code)
		}
	}
	existing := map[string][]string{}
	for _, code := range node.WaitReasons() {
		existing["Codes of a node"] = append(existing["Codes of a node"], string(code))
	}
	for _, code := range host.WaitReasons() {
		existing["Codes of a registrar"] = append(existing["Codes of a registrar"], string(code))
	}
	for _, codes := range []map[string][]string{existing, documented} {
		for _, list := range codes {
			slices.Sort(list)
		}
	}
	if diff := cmp.Diff(existing, documented); diff != "" {
		t.Errorf("docs/waiting.md differs from the code: -code +page:\n%s", diff)
	}
}

// TestWaitReasonsAreListed holds that every constant of a code is in the list of codes, by
// which the page and the metrics are made.
func TestWaitReasonsAreListed(t *testing.T) {
	listed := map[string]bool{}
	for _, code := range node.WaitReasons() {
		listed[string(code)] = true
	}
	for _, code := range host.WaitReasons() {
		listed[string(code)] = true
	}
	constant := regexp.MustCompile(`(?m)^\s+(Wait\w+|Block\w+)\s+(?:WaitReason |Block )?= "(\w+)"$`)
	found := 0
	for _, file := range []string{"../../node/waiting.go", "../../node/mastership/waiting.go", "../../registrar/host/status.go", "../../discovery/driver/types.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range constant.FindAllStringSubmatch(string(text), -1) {
			found++
			if !listed[m[2]] {
				t.Errorf("%s: %s is in no list of codes", file, m[1])
			}
		}
	}
	// Those of a node and of a registrar, of which two are shared by name.
	if want := len(node.WaitReasons()) + len(host.WaitReasons()); found != want {
		t.Errorf("%d constants were found, and %d codes are listed", found, want)
	}
}
