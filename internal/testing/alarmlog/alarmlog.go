// Package alarmlog finds the alarms of a log that were raised and not cleared.
package alarmlog

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/alarm"
)

// Open reads a log of lines of JSON as slog writes them, and returns the warnings in it
// that are not over: those of alarms without a later line that clears them, and those
// of none, which nothing ever clears. Lines that are no JSON are returned as they are.
// Where the log is that of several processes, one after the other, restart is the message
// by which one begins: what an earlier one left open does not count.
func Open(log io.Reader, restart string) ([]string, error) {
	open := make(map[string]string)
	var order []string
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 4<<20)
	for n := 0; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			key := fmt.Sprint("line ", n)
			open[key], order = line, append(order, key)
			continue
		}
		if restart != "" && r["msg"] == restart {
			clear(open)
			order = nil
		}
		level, _ := r["level"].(string)
		warning := strings.HasPrefix(level, "WARN") || strings.HasPrefix(level, "ERROR")
		name, ok := r[alarm.AttrAlarm].(string)
		if !ok {
			if warning {
				key := fmt.Sprint("line ", n)
				open[key], order = line, append(order, key)
			}
			continue
		}
		// A logger may have been given more that tells one owner from another.
		key := fmt.Sprint(name, "\x00", r[alarm.AttrSubject], "\x00", r["provider"], "\x00", r["use"], "\x00", r["node_id"])
		switch {
		case warning:
			if _, again := open[key]; !again {
				order = append(order, key)
			}
			open[key] = line
		case level == "INFO":
			delete(open, key)
			order = slices.DeleteFunc(order, func(k string) bool { return k == key })
		}
	}
	var texts []string
	for _, key := range order {
		texts = append(texts, open[key])
	}
	return texts, lines.Err()
}
