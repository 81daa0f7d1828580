package quorum

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger routes what Raft logs to slog, one level lower than Raft has it:
// peers that cannot be reached are an error to Raft and daily bread to a cluster.
func raftLogger(to *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Output: io.Discard, Level: hclog.Off})
	l.RegisterSink(sink{to})
	return l
}

type sink struct{ to *slog.Logger }

func (s sink) Accept(name string, level hclog.Level, msg string, args ...any) {
	var l slog.Level
	switch level {
	case hclog.Error:
		l = slog.LevelWarn
	case hclog.Warn:
		l = slog.LevelInfo
	case hclog.Info:
		l = slog.LevelDebug
	default:
		return
	}
	ctx := context.Background()
	if !s.to.Enabled(ctx, l) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				args[i] = fmt.Sprintf(format, f[1:]...)
			}
		}
	}
	s.to.Log(ctx, l, msg, append([]any{"component", name}, args...)...)
}
