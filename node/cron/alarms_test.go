package cron

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/testing/alarmlog"
)

// A node that is master no longer leaves no warning about a job open, whatever else its logger
// adds to each line.
func TestNoWarningOutlivesTheMastership(t *testing.T) {
	var log bytes.Buffer
	alarms := alarm.New(slog.New(slog.NewJSONHandler(&log, nil)).With("node_id", "n1"))
	defer alarms.Close()
	l := live{alarms: alarms}
	unrecorded := jobUnrecorded
	unrecorded.Patience = 0
	alarms.Raise(unrecorded, "report", "error", "superseded")
	l.last("report", RunStatus{State: Interrupted, NodeID: "n2"})
	if open, err := alarmlog.Open(bytes.NewReader(log.Bytes()), ""); err != nil || len(open) != 2 {
		t.Fatalf("open: %q, %v", open, err)
	}
	l.forget("report", false)
	if open, err := alarmlog.Open(&log, ""); err != nil || len(open) > 0 {
		t.Errorf("not over: %q, %v", open, err)
	}
}
