package main

import (
	"io"
	"testing"

	"github.com/musterhq/muster/internal/checker"
	"github.com/musterhq/muster/node/history"
)

// readHistory returns the records of one node, or of several processes of it.
func readHistory(t testing.TB, name string, from io.Reader) checker.Log {
	t.Helper()
	records, err := history.Read(from)
	if err != nil {
		t.Errorf("the history of %s: %v", name, err)
	}
	return checker.Log{Host: name, Records: records}
}

// checkRun fails the test where the histories of the nodes show that a promise was
// broken: that there is one master at most, that terms only rise, that there is one
// cluster, and what else package checker knows of.
func checkRun(t testing.TB, run checker.Run) checker.Report {
	t.Helper()
	report := checker.Check(run)
	for _, v := range report.Violations {
		t.Error(v)
	}
	return report
}
