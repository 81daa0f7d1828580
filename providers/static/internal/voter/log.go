package voter

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger routes what Raft logs to slog, at debug level whatever it is to Raft,
// which complains about each missed heartbeat of a voter that is down. What an
// operator must know is in Mastership.Warning.
func raftLogger(to *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Output: io.Discard, Level: hclog.Off})
	l.RegisterSink(sink{to})
	return l
}

type sink struct{ to *slog.Logger }

func (s sink) Accept(name string, level hclog.Level, msg string, args ...any) {
	ctx := context.Background()
	if level < hclog.Info || !s.to.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				args[i] = fmt.Sprintf(format, f[1:]...)
			}
		}
	}
	s.to.Log(ctx, slog.LevelDebug, msg, append([]any{"component", name, "raft_level", level.String()}, args...)...)
}
