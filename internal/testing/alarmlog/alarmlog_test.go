package alarmlog

import (
	"strings"
	"testing"
)

func TestOpen(t *testing.T) {
	const log = `{"level":"WARN","msg":"it fails","alarm":"fails","subject":"x","provider":"a"}
{"level":"WARN","msg":"it fails","alarm":"fails","subject":"x","provider":"b"}
{"level":"WARN","msg":"it fails","alarm":"fails","subject":"x","provider":"a","error":"other"}
{"level":"INFO","msg":"good","alarm":"fails","subject":"x","provider":"a"}
{"level":"DEBUG","msg":"good","alarm":"fails","subject":"x","provider":"b"}
{"level":"ERROR","msg":"it ends"}
panic: no JSON
`
	open, err := Open(strings.NewReader(log), "")
	if err != nil || len(open) != 3 || !strings.Contains(open[0], `"b"`) || !strings.Contains(open[1], "it ends") || open[2] != "panic: no JSON" {
		t.Errorf("Open = %q, %v", open, err)
	}
	const restarted = log + `{"level":"INFO","msg":"started"}
{"level":"WARN","msg":"it fails","alarm":"fails"}
`
	open, err = Open(strings.NewReader(restarted), "started")
	if err != nil || len(open) != 1 || !strings.Contains(open[0], `"alarm":"fails"}`) {
		t.Errorf("Open after a restart = %q, %v", open, err)
	}
}
