package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/providers/static"
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

// TestCommandsPage holds that docs/commands.md is what the commands print of themselves. It is
// written by UPDATE_DOCS=1 go test ./cmd/muster -run TestCommandsPage.
func TestCommandsPage(t *testing.T) {
	var page strings.Builder
	page.WriteString("# Commands\n\nWhat `--help` prints of each; `muster completion` makes completion scripts for shells.\n")
	var add func(cmd *cobra.Command)
	add = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
			return
		}
		_, help, _ := execute(t, append(strings.Fields(cmd.CommandPath())[1:], "--help")...)
		fmt.Fprintf(&page, "\n## %s\n\n```\n%s\n```\n", cmd.CommandPath(), strings.TrimSpace(help))
		for _, child := range cmd.Commands() {
			add(child)
		}
	}
	add(newRootCommand(io.Discard, io.Discard))
	const path = docsDir + "/commands.md"
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(page.String(), string(have)); diff != "" {
		t.Errorf("%s is not what the commands print (UPDATE_DOCS=1 writes it): -commands +page:\n%s", path, diff)
	}
}

// TestMetricsPage holds that docs/metrics.md has every metric of the sources, with its labels and
// its help, and no other.
func TestMetricsPage(t *testing.T) {
	page, err := os.ReadFile(docsDir + "/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	defined := make(map[string]string)
	for _, source := range []struct{ path, prefix string }{
		{"../../node/httpapi/metrics.go", "muster_"}, {"../../registrar/host/api.go", "muster_registrar_"},
	} {
		for _, call := range callsOf(t, source.path, "describe") {
			row := "|"
			for _, label := range call[2:] {
				row += " `" + label + "`,"
			}
			defined[source.prefix+call[0]] = strings.TrimSuffix(row, ",") + " | " + call[1] + " |"
		}
	}
	documented := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(muster_[a-z_]+)` (.*)$").FindAllStringSubmatch(string(page), -1) {
		documented[m[1]] = strings.Replace(m[2], "|  |", "| |", 1)
	}
	if diff := cmp.Diff(defined, documented); diff != "" || len(defined) < 40 {
		t.Errorf("the page differs from the sources, which have %d: -sources +page:\n%s", len(defined), diff)
	}
	for _, name := range regexp.MustCompile(`muster_[a-z_]+`).FindAllString(string(page), -1) {
		if _, ok := defined[name]; !ok && name != "muster_registrar_" {
			t.Errorf("%s is no metric", name)
		}
	}
}

// callsOf returns the literal strings that each call of a function in a source file is made
// with.
func callsOf(t *testing.T, path, function string) [][]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var calls [][]string
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if name, ok := call.Fun.(*ast.Ident); !ok || name.Name != function {
			return true
		}
		var args []string
		for _, arg := range call.Args {
			literal, ok := arg.(*ast.BasicLit)
			if !ok {
				t.Fatalf("%s: an argument of %s is no literal", path, function)
			}
			s, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			args = append(args, s)
		}
		calls = append(calls, args)
		return true
	})
	return calls
}

// TestKubernetesManifest holds that the environment of deploy/kubernetes.yaml is a good
// configuration, that its probes are commands, and that the voters are the pods.
func TestKubernetesManifest(t *testing.T) {
	type probe struct{ Exec struct{ Command []string } }
	text, err := os.ReadFile("../../deploy/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Kind     string
		Metadata struct{ Name string }
		Spec     struct {
			ServiceName string `yaml:"serviceName"`
			Replicas    int
			Template    struct {
				Spec struct {
					Containers []struct {
						Env []struct {
							Name, Value string
							ValueFrom   struct {
								FieldRef struct {
									FieldPath string `yaml:"fieldPath"`
								} `yaml:"fieldRef"`
							} `yaml:"valueFrom"`
						}
						LivenessProbe  probe `yaml:"livenessProbe"`
						ReadinessProbe probe `yaml:"readinessProbe"`
					}
				}
			}
		}
	}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	for set.Kind != "StatefulSet" {
		if err := documents.Decode(&set); err != nil {
			t.Fatal(err)
		}
	}
	container := set.Spec.Template.Spec.Containers[0]
	env := []string{"XDG_STATE_HOME=/var/lib"}
	fields := map[string]string{"metadata.name": set.Metadata.Name + "-0", "status.podIP": "10.0.0.5"}
	for _, v := range container.Env {
		value := v.Value + fields[v.ValueFrom.FieldRef.FieldPath]
		if value == "" {
			t.Errorf("%s has no value", v.Name)
		}
		env = append(env, v.Name+"="+value)
	}
	c, err := config.Load(config.Options{Env: env, Purpose: config.ForNode})
	if err != nil {
		t.Fatal(err)
	}
	var pods []string
	for n := range set.Spec.Replicas {
		pods = append(pods, fmt.Sprintf("%s-%d.%s:7946", set.Metadata.Name, n, set.Spec.ServiceName))
	}
	peers := c.Provider["static"].(*static.Config).Peers
	if !slices.Equal(peers, pods) || c.Node.ID != pods[0][:len(set.Metadata.Name)+2] {
		t.Errorf("node %s lists %v, want %v", c.Node.ID, peers, pods)
	}
	for _, command := range [][]string{container.LivenessProbe.Exec.Command, container.ReadinessProbe.Exec.Command} {
		if len(command) < 2 {
			t.Fatalf("a probe is %v", command)
		}
		if status, _, stderr := execute(t, append(command[1:], "--help")...); status != statusDone {
			t.Errorf("the probe %v: %s", command, stderr)
		}
	}
}

var (
	pageLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// TestLinks holds that every link of a page to a file of ours, or to a heading in one, leads
// somewhere.
func TestLinks(t *testing.T) {
	links := 0
	err := walkPages(func(path, text string) error {
		for _, m := range pageLink.FindAllStringSubmatch(text, -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			links++
			target := path
			if to != "" {
				target = filepath.Join(filepath.Dir(path), to)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
				continue
			}
			if anchor == "" {
				continue
			}
			page, err := os.ReadFile(target)
			if err != nil {
				return err
			}
			if !slices.Contains(anchorsOf(string(page)), anchor) {
				t.Errorf("%s: %s: there is no such heading", path, m[1])
			}
		}
		return nil
	})
	if err != nil || links < 50 {
		t.Errorf("%d links were followed, %v", links, err)
	}
}

// oldWords are words that pages and sources do without, since the language has plainer ones.
// They are taken apart here, so that a search for them finds nothing.
var oldWords = []string{
	"who" + "ever", "who" + "m", "who" + "mever", "le" + "st", "a" + "new", "men" + "d", "men" + "ds", "men" + "ded", "men" + "ding",
	"beside" + "s", "for" + " ever", "be" + " it", "tells" + " of", "hear" + " of", "hears" + " of", "heard" + " of",
	"lap" + "se", "lap" + "ses", "lap" + "sed",
}

// findOldWords returns the old words of a text, each behind its line. It has no regular
// expression, which takes a minute for all sources with the race detector.
func findOldWords(text string) []string {
	var found []string
	inWord := func(c byte) bool { return c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' }
	before, line, lineBefore := "", 1, 1 // the word before, where nothing but space is between
	for i := 0; i < len(text); {
		end := i
		for end < len(text) && inWord(text[end]) {
			end++
		}
		if word := text[i:end]; word != "" {
			if slices.Contains(oldWords, strings.ToLower(word)) {
				found = append(found, fmt.Sprintf("%d: %q", line, word))
			}
			if two := before + " " + word; before != "" && slices.Contains(oldWords, strings.ToLower(two)) {
				found = append(found, fmt.Sprintf("%d: %q", lineBefore, two))
			}
			before, lineBefore, i = word, line, end
			continue
		}
		switch text[i] {
		case '\n':
			line++
		case ' ', '\t', '\r':
		default:
			before = ""
		}
		i++
	}
	return found
}

// maxComment is how many columns a comment may have, with tabs of four.
const maxComment = 100

// wideComments returns the lines of a source whose comment, alone on its line, has more than
// maxComment columns. Code in a comment, directives and an address that is longer do not count.
func wideComments(text string) (lines []int) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		indent, comment, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "// ")
		if !ok || strings.Trim(indent, "\t") != "" || !strings.Contains(comment, " ") {
			continue
		}
		if 4*len(indent)+len("// ")+utf8.RuneCountInString(comment) > maxComment {
			lines = append(lines, n)
		}
	}
	return lines
}

// TestNarrowComments holds comments to their width. Examples have lines of output, which cannot be
// broken.
func TestNarrowComments(t *testing.T) {
	read := 0
	err := walkFiles(".go", func(path, text string) error {
		read++
		if strings.HasPrefix(text, "// Code generated") {
			return nil
		}
		for _, line := range wideComments(text) {
			if !strings.HasSuffix(path, "example_test.go") {
				t.Errorf("%s:%d: a comment of more than %d columns", filepath.ToSlash(path), line, maxComment)
			}
		}
		return nil
	})
	if err != nil || read < 500 {
		t.Errorf("%d files were read, %v", read, err)
	}
	long := "\t// " + strings.Repeat("word ", 18) + "and"
	if got := wideComments("package x\n" + long + "\n" + long + " more\n"); !slices.Equal(got, []int{3}) {
		t.Errorf("the wide comments are on lines %v, want 3: of %d and %d columns", got, len(long)+3, len(long)+8)
	}
}

// TestPlainWords holds that no page has an old word, and no source, in what it says as in what
// it is called.
func TestPlainWords(t *testing.T) {
	for ext, least := range map[string]int{".md": 20, ".go": 500} {
		read := 0
		err := walkFiles(ext, func(path, text string) error {
			read++
			for _, found := range findOldWords(text) {
				t.Errorf("%s:%s is not a word of ours; docs/glossary.md has those that are", filepath.ToSlash(path), found)
			}
			return nil
		})
		if err != nil || read < least {
			t.Errorf("%d files *%s were read, %v", read, ext, err)
		}
	}
}

func TestFindOldWords(t *testing.T) {
	const text = "Who" + "ever amends it recommends the best.\nIt holds for\never, be " + "it that `men" + "ded` stays.\nA lesson: renewed, beside the others."
	want := []string{`1: "Who` + `ever"`, `2: "for` + ` ever"`, `3: "be` + ` it"`, `3: "men` + `ded"`}
	if diff := cmp.Diff(want, findOldWords(text)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// walkPages calls f for each page of the repository.
func walkPages(f func(path, text string) error) error { return walkFiles(".md", f) }

// walkFiles calls f for each file of the repository with that extension.
func walkFiles(ext string, f func(path, text string) error) error {
	return filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != "../.." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ext {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return f(path, string(text))
	})
}

var (
	// quotedRow is a row of a table of messages, and quote a message in its first cell.
	quotedRow = regexp.MustCompile("^\\| ([^|]*`[^|]*) \\|")
	quote     = regexp.MustCompile("`([^`]+ [^`]+)`")
	// variable is what differs from one message to another of a kind: a verb of fmt, a number, an
	// address, or what is quoted.
	variable = regexp.MustCompile(`%(\[\d+\])?[a-z]|\[[0-9a-f:]+\]:\d+|\d+(\.\d+)*(:\d+)*|\\?"[^"\\ ]*\\?"`)
)

// TestQuotedMessages holds that the messages which pages explain are what the program says: each
// is in a source or, where it is put together there, in a test of it.
func TestQuotedMessages(t *testing.T) {
	alike := func(text string) string { return variable.ReplaceAllString(text, "#") }
	type message struct {
		at, text, fixed string // fixed is its longest part without a variable
		said            bool
	}
	var messages []*message
	for _, page := range []string{"docker.md", "troubleshooting.md"} {
		text, err := os.ReadFile(filepath.Join(docsDir, page))
		if err != nil {
			t.Fatal(err)
		}
		inTable := false
		for n, line := range strings.Split(string(text), "\n") {
			switch {
			case !strings.HasPrefix(line, "|"):
				inTable = false
			case strings.HasPrefix(line, "| the log says |"), strings.HasPrefix(line, "| message |"):
				inTable = true
			}
			row := quotedRow.FindStringSubmatch(line)
			if !inTable || row == nil {
				continue
			}
			for _, q := range quote.FindAllStringSubmatch(row[1], -1) {
				m := &message{at: fmt.Sprintf("%s:%d", page, n+1), text: q[1]}
				for part := range strings.SplitSeq(alike(m.text), "#") {
					if len(part) > len(m.fixed) {
						m.fixed = part
					}
				}
				messages = append(messages, m)
			}
		}
	}
	if len(messages) < 18 {
		t.Errorf("%d messages were found", len(messages))
	}
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		text, err := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			for _, m := range messages {
				// The regular expression takes its time, and few lines have the fixed part.
				m.said = m.said || strings.Contains(line, m.fixed) && strings.Contains(alike(line), alike(m.text))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if !m.said {
			t.Errorf("%s: %q is said nowhere", m.at, m.text)
		}
	}
}

// anchorsOf are the anchors that GitHub makes of the headings of a page.
func anchorsOf(page string) []string {
	var anchors []string
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(m[1]))
		anchors = append(anchors, anchor)
	}
	return anchors
}

// TestOldestGo holds that go.mod asks for no newer Go than a dependency does, and that
// docs/compatibility.md names the version and such a dependency.
func TestOldestGo(t *testing.T) {
	ours, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.GoVersion}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{if not .Main}}{{.GoVersion}} {{.Path}}{{end}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(docsDir + "/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	oldest := strings.TrimSpace(string(ours))
	if !bytes.Contains(page, []byte(oldest)) {
		t.Errorf("docs/compatibility.md does not name Go %s", oldest)
	}
	var forced []string
	for line := range strings.Lines(string(list)) {
		if wanted, module, ok := strings.Cut(strings.TrimSpace(line), " "); ok && wanted == oldest {
			forced = append(forced, module)
		}
	}
	if !slices.ContainsFunc(forced, func(module string) bool { return bytes.Contains(page, []byte("`"+module+"`")) }) {
		t.Errorf("Go %s is asked for by %q, of which docs/compatibility.md names none", oldest, forced)
	}
}
