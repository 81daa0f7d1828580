package secret_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/secret"
)

func TestStringNeverPrintsItself(t *testing.T) {
	const value = "open sesame"
	s := secret.String(value)
	type config struct {
		Password secret.String `json:"password"`
	}
	encoded, err := json.Marshal(config{s})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("secret", "password", s, "config", config{s})
	for _, printed := range []string{
		string(encoded), log.String(),
		fmt.Sprint(s), fmt.Sprintf("%q %+v %#v", s, config{s}, config{s}), fmt.Sprint([]secret.String{s}),
	} {
		if strings.Contains(printed, value) || !strings.Contains(printed, "[redacted]") {
			t.Errorf("printed as %s", printed)
		}
	}
	if string(s) != value {
		t.Errorf("string(s) = %q, want %q", string(s), value)
	}
	if got := secret.String("").String(); got != "" {
		t.Errorf("no secret is printed as %q", got)
	}
}

func TestOrReadsTheFileEachTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if s, err := secret.String("").Or(file); err == nil {
		t.Errorf("a file that does not exist holds %q", string(s))
	}
	for _, want := range []secret.String{"first", "second"} {
		if err := os.WriteFile(file, []byte(" "+string(want)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := secret.String("").Or(file); err != nil || got != want {
			t.Errorf("Or(file) = %q, %v; want %q", string(got), err, string(want))
		}
	}
	if got, err := secret.String("own").Or(file); err != nil || got != "own" {
		t.Errorf("a secret of its own gives %q, %v", string(got), err)
	}
	if got, err := secret.String("").Or(""); err != nil || got != "" {
		t.Errorf("without a file: %q, %v", string(got), err)
	}
}
