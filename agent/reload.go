package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/secret"
)

// ErrRestart ends an agent or a registrar whose changed configuration wants another start.
// It has left in good order.
var ErrRestart = errors.New("the configuration has changed and wants a restart")

// notReloaded is over when a configuration that can be read was.
var notReloaded = alarm.Kind{Name: "configuration_not_reloaded", Raised: "configuration not reloaded", Cleared: "configuration read again",
	Level: slog.LevelError}

// reloader reads the configuration again and puts in force what can be while the process
// runs. The files of certificates, tokens and lists of peers are followed without it.
type reloader struct {
	log    *slog.Logger
	alarms *alarm.Set

	load func() (*config.Config, error)
	// restart gets the keys that want another start, once.
	restart chan []string

	mu    sync.Mutex
	cfg   *config.Config // the one in force
	token func() secret.String
}

func newReloader(cfg *config.Config, log *slog.Logger, load func() (*config.Config, error)) *reloader {
	return &reloader{
		log: log, alarms: alarm.New(log), load: load, cfg: cfg, restart: make(chan []string, 1),
		token: httpapi.TokenOf(cfg.HTTP.Token, cfg.HTTP.TokenFile),
	}
}

// currentToken is the token of the API as it was last loaded.
func (r *reloader) currentToken() secret.String {
	r.mu.Lock()
	token := r.token
	r.mu.Unlock()
	return token()
}

// reload reads the configuration again. Where that is wrong, nothing changes. Where a key has
// changed that wants another start, nothing of it is applied by halves: restart is reported.
func (r *reloader) reload(context.Context) (httpapi.Reloaded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.load == nil {
		return httpapi.Reloaded{}, errors.New("this agent has no configuration to read again")
	}
	next, err := r.load()
	if err != nil {
		err = fmt.Errorf("the configuration was not reloaded: %w", err)
		r.alarms.Raise(notReloaded, "", "error", err)
		return httpapi.Reloaded{}, err
	}
	r.alarms.Clear(notReloaded, "")
	var out httpapi.Reloaded
	guarded := r.cfg.HTTP.Token != "" || r.cfg.HTTP.TokenFile != ""
	willBe := next.HTTP.Token != "" || next.HTTP.TokenFile != ""
	for _, key := range r.cfg.Changed(next) {
		switch {
		case key == "log.level":
			out.Applied = append(out.Applied, key)
		case (key == "http.token" || key == "http.token_file") && guarded && willBe:
			out.Applied = append(out.Applied, key)
		default:
			out.Restart = append(out.Restart, key)
		}
	}
	if len(out.Restart) > 0 {
		out.Applied = nil // all of it comes with the start
		r.log.Info("the changed configuration wants a restart", "keys", strings.Join(out.Restart, ","))
		select {
		case r.restart <- out.Restart:
		default: // told before
		}
		return out, nil
	}
	if slices.Contains(out.Applied, "log.level") {
		r.cfg.SetLogLevel(next.Log.Level)
	}
	r.cfg.HTTP.Token, r.cfg.HTTP.TokenFile = next.HTTP.Token, next.HTTP.TokenFile
	r.token = httpapi.TokenOf(next.HTTP.Token, next.HTTP.TokenFile)
	r.log.Info("configuration reloaded", "keys", strings.Join(out.Applied, ","))
	return out, nil
}

// follow reloads each time that asked has a value, until it is closed or stop is called.
func (r *reloader) follow(asked <-chan os.Signal) (stop func()) {
	ended := make(chan struct{})
	var following sync.WaitGroup
	following.Go(func() {
		for {
			select {
			case _, open := <-asked:
				if !open {
					return
				}
				_, _ = r.reload(context.Background()) // which logs what is wrong
			case <-ended:
				return
			}
		}
	})
	return func() {
		close(ended)
		following.Wait()
	}
}

// restartError names the keys that want another start.
func restartError(keys []string) error {
	return fmt.Errorf("%w: %s", ErrRestart, strings.Join(keys, ", "))
}
