package checker

import (
	"io"
	"testing"

	"github.com/musterhq/muster/node/history"
)

// ReadLog returns the records of one node, or of several processes of it. What cannot be read
// fails the test.
func ReadLog(t testing.TB, name string, from io.Reader) Log {
	t.Helper()
	records, err := history.Read(from)
	if err != nil {
		t.Errorf("the history of %s: %v", name, err)
	}
	return Log{Host: name, Records: records}
}

// Require fails the test for each promise that Check finds broken.
func Require(t testing.TB, run Run) Report {
	t.Helper()
	report := Check(run)
	for _, v := range report.Violations {
		t.Error(v)
	}
	return report
}
