package agent

import (
	"errors"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/musterhq/muster/config"
)

// A channel that its owner closes asks for nothing any more.
func TestReloadChannelIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int64
		r := newReloader(&config.Config{}, slog.New(slog.DiscardHandler), func() (*config.Config, error) {
			if loads.Add(1) > 1 {
				runtime.Goexit() // or else it is read again without end
			}
			return nil, errors.New("not now")
		})
		asked := make(chan os.Signal, 1)
		asked <- syscall.SIGHUP
		close(asked)
		stop := r.follow(asked)
		synctest.Wait()
		stop()
		if n := loads.Load(); n != 1 {
			t.Errorf("the configuration was read %d times, want once", n)
		}
		r.alarms.Close()
	})
}
